//! The states of volumes and attachments, by Cinder's names, and how they follow each other.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// A transition that does not start from the state something is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} while the status is {state}")]
pub struct TransitionError<S: fmt::Display> {
    /// What was to be done.
    pub operation: &'static str,
    /// The state that forbids it.
    pub state: S,
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no status")]
pub struct StateError {
    /// What was given, cut to 64 characters.
    pub text: String,
}

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant),*
        }

        impl $name {
            /// All states.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Cinder's name of the state.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = StateError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let known = Self::ALL.iter().find(|state| state.as_str() == text);
                known.copied().ok_or_else(|| StateError { text: text.chars().take(64).collect() })
            }
        }
    };
}

states! {
    /// The state of a volume.
    VolumeState {
        /// It is being made.
        Creating = "creating",
        /// It can be used.
        Available = "available",
        /// It is kept for an attachment that has no connector yet.
        Reserved = "reserved",
        /// A connector has been given access and connects.
        Attaching = "attaching",
        /// It is connected.
        InUse = "in-use",
        /// It is being disconnected.
        Detaching = "detaching",
        /// It is growing.
        Extending = "extending",
        /// It is being removed.
        Deleting = "deleting",
        /// Making it failed.
        Error = "error",
        /// Removing it failed.
        ErrorDeleting = "error_deleting",
        /// Growing it failed.
        ErrorExtending = "error_extending",
        /// An administrator has taken it out of use.
        Maintenance = "maintenance",
    }
}

states! {
    /// The state of an attachment.
    AttachmentState {
        /// The volume is kept for it; nobody can connect yet.
        Reserved = "reserved",
        /// A connector has been given access.
        Attaching = "attaching",
        /// It is connected.
        Attached = "attached",
        /// Its access is being taken away.
        Detaching = "detaching",
    }
}

type Next = Result<VolumeState, TransitionError<VolumeState>>;

impl VolumeState {
    /// Starts removing it.
    ///
    /// # Errors
    /// Unless it is available or one of the errors.
    pub const fn begin_delete(self) -> Next {
        match self {
            Self::Available | Self::Error | Self::ErrorDeleting | Self::ErrorExtending => {
                Ok(Self::Deleting)
            }
            Self::Creating
            | Self::Reserved
            | Self::Attaching
            | Self::InUse
            | Self::Detaching
            | Self::Extending
            | Self::Deleting
            | Self::Maintenance => Err(TransitionError {
                operation: "delete",
                state: self,
            }),
        }
    }

    /// Starts growing it.
    ///
    /// # Errors
    /// Unless it is available, in use, or growing it failed: then the same call goes on from there.
    pub const fn begin_extend(self) -> Next {
        match self {
            Self::Available | Self::InUse | Self::ErrorExtending => Ok(Self::Extending),
            Self::Creating
            | Self::Reserved
            | Self::Attaching
            | Self::Detaching
            | Self::Extending
            | Self::Deleting
            | Self::Error
            | Self::ErrorDeleting
            | Self::Maintenance => Err(TransitionError {
                operation: "extend",
                state: self,
            }),
        }
    }

    /// Keeps it for a new attachment. A volume that several may attach can be in use already.
    ///
    /// # Errors
    /// Unless it is available, or in use and shareable.
    pub const fn reserve(self, is_shareable: bool) -> Next {
        match self {
            Self::Available => Ok(Self::Reserved),
            Self::InUse if is_shareable => Ok(Self::InUse),
            Self::Creating
            | Self::Reserved
            | Self::Attaching
            | Self::InUse
            | Self::Detaching
            | Self::Extending
            | Self::Deleting
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::Maintenance => Err(TransitionError {
                operation: "reserve",
                state: self,
            }),
        }
    }

    /// Lets the connector of one of its attachments in.
    ///
    /// # Errors
    /// Unless it has an attachment and is not being changed.
    pub const fn begin_attach(self) -> Next {
        match self {
            Self::Reserved | Self::Attaching => Ok(Self::Attaching),
            Self::InUse => Ok(Self::InUse),
            Self::Creating
            | Self::Available
            | Self::Detaching
            | Self::Extending
            | Self::Deleting
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::Maintenance => Err(TransitionError {
                operation: "attach",
                state: self,
            }),
        }
    }

    /// One of its attachments says that it is connected.
    ///
    /// # Errors
    /// Unless a connector was let in.
    pub const fn finish_attach(self) -> Next {
        match self {
            Self::Attaching | Self::InUse => Ok(Self::InUse),
            Self::Creating
            | Self::Available
            | Self::Reserved
            | Self::Detaching
            | Self::Extending
            | Self::Deleting
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::Maintenance => Err(TransitionError {
                operation: "complete the attachment of",
                state: self,
            }),
        }
    }

    /// Starts taking one of its attachments away.
    ///
    /// # Errors
    /// Unless it has an attachment and is not being changed.
    pub const fn begin_detach(self) -> Next {
        match self {
            Self::Reserved | Self::Attaching | Self::InUse | Self::Detaching => Ok(Self::Detaching),
            // An error or an administrator's word stays: it says more than that an attachment goes.
            Self::Error | Self::ErrorDeleting | Self::ErrorExtending | Self::Maintenance => {
                Ok(self)
            }
            Self::Creating | Self::Available | Self::Extending | Self::Deleting => {
                Err(TransitionError {
                    operation: "detach",
                    state: self,
                })
            }
        }
    }

    /// What it is once only these attachments are left.
    #[must_use]
    pub fn settle(self, left: impl IntoIterator<Item = AttachmentState>) -> Self {
        match self {
            Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::Maintenance
            | Self::Creating
            | Self::Extending
            | Self::Deleting => self,
            Self::Available | Self::Reserved | Self::Attaching | Self::InUse | Self::Detaching => {
                left.into_iter()
                    .map(AttachmentState::of_volume)
                    .max_by_key(|state| state.rank())
                    .unwrap_or(Self::Available)
            }
        }
    }

    /// What it is once growing it, which began in this state with these attachments, is over.
    ///
    /// A volume whose growing had failed is no longer in error: only its attachments say what it is.
    #[must_use]
    pub fn settle_extended(self, attachments: impl IntoIterator<Item = AttachmentState>) -> Self {
        match self {
            Self::ErrorExtending => Self::Available.settle(attachments),
            Self::Creating
            | Self::Available
            | Self::Reserved
            | Self::Attaching
            | Self::InUse
            | Self::Detaching
            | Self::Extending
            | Self::Deleting
            | Self::Error
            | Self::ErrorDeleting
            | Self::Maintenance => self,
        }
    }

    /// Of several attachments, the one furthest on decides what the volume shows.
    const fn rank(self) -> u8 {
        match self {
            Self::InUse => 3,
            Self::Detaching => 2,
            Self::Attaching => 1,
            Self::Creating
            | Self::Available
            | Self::Reserved
            | Self::Extending
            | Self::Deleting
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::Maintenance => 0,
        }
    }

    /// Whether something is being done to it, so that the state will change by itself.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Creating | Self::Extending | Self::Deleting => true,
            Self::Available
            | Self::Reserved
            | Self::Attaching
            | Self::InUse
            | Self::Detaching
            | Self::Error
            | Self::ErrorDeleting
            | Self::ErrorExtending
            | Self::Maintenance => false,
        }
    }
}

impl AttachmentState {
    /// Lets its connector in. One that was let in already may be let in again: its answer may have been lost.
    ///
    /// # Errors
    /// When it is connected, or going.
    pub const fn begin_attach(self) -> Result<Self, TransitionError<Self>> {
        match self {
            Self::Reserved | Self::Attaching => Ok(Self::Attaching),
            Self::Attached | Self::Detaching => Err(TransitionError {
                operation: "connect",
                state: self,
            }),
        }
    }

    /// It says that it is connected. Saying so twice is fine.
    ///
    /// # Errors
    /// When no connector was let in, or it is going.
    pub const fn finish_attach(self) -> Result<Self, TransitionError<Self>> {
        match self {
            Self::Attaching | Self::Attached => Ok(Self::Attached),
            Self::Reserved | Self::Detaching => Err(TransitionError {
                operation: "complete",
                state: self,
            }),
        }
    }

    /// Whether its connector has access to the volume.
    #[must_use]
    pub const fn has_access(self) -> bool {
        match self {
            Self::Attaching | Self::Attached => true,
            Self::Reserved | Self::Detaching => false,
        }
    }

    /// What a volume is when this is its only attachment.
    #[must_use]
    pub const fn of_volume(self) -> VolumeState {
        match self {
            Self::Reserved => VolumeState::Reserved,
            Self::Attaching => VolumeState::Attaching,
            Self::Attached => VolumeState::InUse,
            Self::Detaching => VolumeState::Detaching,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_own_name_and_parses_back() {
        for state in VolumeState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        for state in AttachmentState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        assert!("in_use".parse::<VolumeState>().is_err());
    }

    #[test]
    fn an_attached_volume_cannot_be_deleted_and_a_failed_one_can() {
        let error = VolumeState::InUse.begin_delete().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot delete while the status is in-use"
        );
        for state in [
            VolumeState::Available,
            VolumeState::Error,
            VolumeState::ErrorDeleting,
        ] {
            assert_eq!(state.begin_delete(), Ok(VolumeState::Deleting));
        }
    }

    #[test]
    fn a_volume_whose_growing_failed_grows_again_and_is_what_its_attachments_say() {
        let failed = VolumeState::ErrorExtending;
        assert_eq!(failed.begin_extend(), Ok(VolumeState::Extending));
        assert_eq!(failed.settle_extended([]), VolumeState::Available);
        let attached = [AttachmentState::Attached, AttachmentState::Reserved];
        assert_eq!(failed.settle_extended(attached), VolumeState::InUse);
        for state in [VolumeState::Available, VolumeState::InUse] {
            assert_eq!(state.settle_extended([]), state);
        }
        for state in [VolumeState::Error, VolumeState::ErrorDeleting] {
            assert!(state.begin_extend().is_err());
        }
    }

    #[test]
    fn an_available_volume_goes_through_an_attachment_and_back() {
        let reserved = VolumeState::Available.reserve(false).unwrap();
        let attaching = reserved.begin_attach().unwrap();
        let in_use = attaching.finish_attach().unwrap();
        assert_eq!(in_use, VolumeState::InUse);
        assert!(in_use.reserve(false).is_err());
        let detaching = in_use.begin_detach().unwrap();
        assert_eq!(detaching.settle([]), VolumeState::Available);
    }

    #[test]
    fn the_attachment_furthest_on_decides_what_the_volume_shows() {
        use AttachmentState::{Attached, Attaching, Detaching, Reserved};
        let settled =
            |left: &[AttachmentState]| VolumeState::Detaching.settle(left.iter().copied());
        assert_eq!(
            settled(&[Reserved, Attached, Detaching]),
            VolumeState::InUse
        );
        assert_eq!(settled(&[Attaching, Reserved]), VolumeState::Attaching);
        assert_eq!(settled(&[Reserved]), VolumeState::Reserved);
        assert_eq!(
            VolumeState::Maintenance.settle([Attached]),
            VolumeState::Maintenance
        );
    }

    #[test]
    fn no_transition_starts_while_something_else_is_being_done() {
        for state in VolumeState::ALL.iter().filter(|state| state.is_transient()) {
            assert!(state.begin_delete().is_err() && state.begin_extend().is_err());
            assert!(state.reserve(true).is_err() && state.begin_attach().is_err());
            assert!(state.finish_attach().is_err() && state.begin_detach().is_err());
        }
    }
}

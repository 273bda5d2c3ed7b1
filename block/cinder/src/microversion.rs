//! Microversions: which revision of the v3 contract a request speaks, and what each revision added.

use crate::{Fault, FaultKind};
use core::fmt;

/// A revision of the volume API, `3.<minor>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Microversion {
    minor: u16,
}

/// The header that carries a microversion both ways.
pub const HEADER: &str = "openstack-api-version";
/// The service name inside that header.
pub const SERVICE: &str = "volume";

/// The first revision with a thing.
pub mod since {
    use super::Microversion;

    /// `GET /volumes/summary`.
    pub const SUMMARY: Microversion = Microversion::new(12);
    /// `group_id` in volumes.
    pub const GROUP_ID: Microversion = Microversion::new(13);
    /// `provider_id` in volumes, for admins.
    pub const PROVIDER_ID: Microversion = Microversion::new(21);
    /// `cluster` in services.
    pub const SERVICE_CLUSTER: Microversion = Microversion::new(7);
    /// `/messages`.
    pub const MESSAGES: Microversion = Microversion::new(3);
    /// The attachments API.
    pub const ATTACHMENTS: Microversion = Microversion::new(27);
    /// Filters a resource does not have are refused, no longer ignored.
    pub const STRICT_FILTERS: Microversion = Microversion::new(31);
    /// `GET /resource_filters`.
    pub const RESOURCE_FILTERS: Microversion = Microversion::new(33);
    /// Filters of the form `name~=part`.
    pub const LIKE_FILTERS: Microversion = Microversion::new(34);
    /// Metadata in the volume summary.
    pub const SUMMARY_METADATA: Microversion = Microversion::new(36);
    /// Extending a volume that is in use.
    pub const EXTEND_IN_USE: Microversion = Microversion::new(42);
    /// Completing an attachment.
    pub const ATTACHMENT_COMPLETE: Microversion = Microversion::new(44);
    /// `with_count` in listings.
    pub const COUNT: Microversion = Microversion::new(45);
    /// Volumes made of backups.
    pub const FROM_BACKUP: Microversion = Microversion::new(47);
    /// `shared_targets` and `service_uuid` in volumes.
    pub const SHARED_TARGETS: Microversion = Microversion::new(48);
    /// `backend_state` in services.
    pub const BACKEND_STATE: Microversion = Microversion::new(49);
    /// Volume requests with unknown keys are refused.
    pub const STRICT_VOLUME: Microversion = Microversion::new(53);
    /// `mode` when an attachment is made.
    pub const ATTACH_MODE: Microversion = Microversion::new(54);
    /// Filters by moments, `created_at=gt:…`.
    pub const TIME_FILTERS: Microversion = Microversion::new(60);
    /// `cluster_name` in volumes, for admins.
    pub const CLUSTER_NAME: Microversion = Microversion::new(61);
    /// `volume_type_id` in volumes.
    pub const VOLUME_TYPE_ID: Microversion = Microversion::new(63);
    /// `encryption_key_id` in encrypted volumes.
    pub const ENCRYPTION_KEY_ID: Microversion = Microversion::new(64);
    /// `consumes_quota` in volumes.
    pub const CONSUMES_QUOTA: Microversion = Microversion::new(65);
    /// `shared_targets` may be null.
    pub const SHARED_TARGETS_NULL: Microversion = Microversion::new(69);
}

impl Microversion {
    /// The oldest revision.
    pub const MIN: Self = Self::new(0);
    /// The newest revision.
    pub const MAX: Self = Self::new(71);

    /// Revision `3.<minor>`.
    #[must_use]
    pub const fn new(minor: u16) -> Self {
        Self { minor }
    }

    /// The number after the point.
    #[must_use]
    pub const fn minor(self) -> u16 {
        self.minor
    }

    /// The revision a request asks for by its `OpenStack-API-Version` header; without one, the oldest.
    ///
    /// # Errors
    /// 400 when the text is no version, 406 when it is outside of what is served.
    pub fn negotiate(header: Option<&str>) -> Result<Self, Fault> {
        let asked = header
            .into_iter()
            .flat_map(|value| value.split(','))
            .find_map(|entry| {
                let mut words = entry.split_ascii_whitespace();
                (words.next()?.eq_ignore_ascii_case(SERVICE)).then(|| words.next().unwrap_or(""))
            });
        match asked {
            None => Ok(Self::MIN),
            Some("latest") => Ok(Self::MAX),
            Some(text) => Self::within_range(text),
        }
    }

    fn within_range(text: &str) -> Result<Self, Fault> {
        let malformed = || {
            let text: String = text.chars().take(64).collect();
            Fault::bad_request(format!(
                "API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum."
            ))
        };
        let (major, minor) = text.split_once('.').ok_or_else(malformed)?;
        let number = |part: &str| {
            let digits =
                (1..=5).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
            digits
                .then(|| part.parse::<u32>().ok())
                .flatten()
                .ok_or_else(malformed)
        };
        let (major, minor) = (number(major)?, number(minor)?);
        u16::try_from(minor)
            .ok()
            .map(Self::new)
            .filter(|version| major == 3 && *version <= Self::MAX)
            .ok_or_else(|| {
                let range = format!("Minimum is {} and maximum is {}.", Self::MIN, Self::MAX);
                let message = format!("Version {text} is not supported by the API. {range}");
                Fault::new(FaultKind::NotAcceptable, message)
            })
    }

    /// The header's value for this revision.
    #[must_use]
    pub fn header_value(self) -> String {
        format!("{SERVICE} {self}")
    }
}

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "3.{}", self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_header_means_the_oldest_and_latest_the_newest() {
        assert_eq!(Microversion::negotiate(None).unwrap(), Microversion::MIN);
        assert_eq!(
            Microversion::negotiate(Some("compute 2.90")).unwrap(),
            Microversion::MIN
        );
        assert_eq!(
            Microversion::negotiate(Some("volume latest")).unwrap(),
            Microversion::MAX
        );
        let several = Some("compute 2.90, volume 3.27");
        assert_eq!(
            Microversion::negotiate(several).unwrap(),
            since::ATTACHMENTS
        );
    }

    #[test]
    fn a_version_out_of_range_is_not_acceptable() {
        for text in ["volume 3.72", "volume 3.99", "volume 2.0", "volume 4.1"] {
            let fault = Microversion::negotiate(Some(text)).unwrap_err();
            assert_eq!(fault.code(), 406, "{text}");
        }
        let fault = Microversion::negotiate(Some("volume 3.99")).unwrap_err();
        let expected =
            "Version 3.99 is not supported by the API. Minimum is 3.0 and maximum is 3.71.";
        assert_eq!(fault.message(), expected);
    }

    #[test]
    fn what_is_no_version_is_a_bad_request() {
        for text in [
            "volume",
            "volume x",
            "volume 3",
            "volume 3.x",
            "volume -3.1",
            "volume 3.999999",
            "volume 3.+1",
        ] {
            assert_eq!(
                Microversion::negotiate(Some(text)).unwrap_err().code(),
                400,
                "{text}"
            );
        }
    }
}

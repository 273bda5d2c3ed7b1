//! Names and tags as LVM allows them, and how ours are written in them.

use crate::pool::Labels;
use core::fmt;
use onggi_common_units::Uuid;

/// The tag of every group and volume that is Onggi's.
pub const TAG_OURS: &str = "onggi";
/// The tag of a volume whose bytes are not known to be zero yet.
pub const TAG_UNREADY: &str = "onggi.unready";
/// Begins the tag of a volume that is being grown; the extents it had before follow.
pub const TAG_GROWING: &str = "onggi.growing=";
const TAG_NAME: &str = "onggi.name=";
const TAG_PROJECT: &str = "onggi.project=";

/// Begins the name of a volume's logical volume, as Cinder names them.
const VOLUME_PREFIX: &str = "volume-";
/// Begins the name of what a removed volume leaves until its bytes are gone.
const ZEROING_PREFIX: &str = "onggi-zeroing-";

const NAME_BYTES_MAX: usize = 64;
/// LVM's limit for a tag is 1,024 bytes; what is longer is cut.
const TAG_VALUE_BYTES_MAX: usize = 960;

/// The name of a volume group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VgName(String);

/// A text that is no name of a volume group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} cannot name a volume group: use 1 to {NAME_BYTES_MAX} letters, digits and `+`, `_`, `.`, `-`, not beginning \
     with `-` or `.`"
)]
pub struct VgNameError {
    /// The text.
    pub text: String,
}

impl core::str::FromStr for VgName {
    type Err = VgNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
        let begins_well = !text.starts_with(['-', '.', '+']);
        if text.is_empty()
            || text.len() > NAME_BYTES_MAX
            || !begins_well
            || !text.bytes().all(is_fit)
        {
            return Err(VgNameError {
                text: text.to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl VgName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How LVM's commands name one of its volumes.
    pub(crate) fn volume(&self, lv_name: &str) -> String {
        format!("{}/{lv_name}", self.0)
    }
}

impl fmt::Display for VgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The logical volume of a volume.
pub(crate) fn volume_name(id: Uuid) -> String {
    format!("{VOLUME_PREFIX}{id}")
}

/// The volume a logical volume belongs to.
pub(crate) fn volume_id(lv_name: &str) -> Option<Uuid> {
    let id: Uuid = lv_name.strip_prefix(VOLUME_PREFIX)?.parse().ok()?;
    // Only the one spelling counts: another one would be a second name for the same volume.
    (volume_name(id) == lv_name).then_some(id)
}

/// The name for what a removed volume leaves. The id is a fresh one: the same volume may be removed twice.
pub(crate) fn zeroing_name(fresh: Uuid) -> String {
    format!("{ZEROING_PREFIX}{fresh}")
}

/// Whether this is what a removed volume left.
pub(crate) fn is_zeroing(lv_name: &str) -> bool {
    lv_name.starts_with(ZEROING_PREFIX)
}

/// The tags that carry labels.
pub(crate) fn label_tags(labels: &Labels) -> Vec<String> {
    [(TAG_NAME, &labels.name), (TAG_PROJECT, &labels.project)]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(tag, value)| format!("{tag}{}", encode(value)))
        .collect()
}

/// Whether a tag carries a label.
pub(crate) fn is_label_tag(tag: &str) -> bool {
    tag.starts_with(TAG_NAME) || tag.starts_with(TAG_PROJECT)
}

/// The labels that tags carry. A tag somebody changed by hand yields what can be read of it.
pub(crate) fn labels_of(tags: &[String]) -> Labels {
    let value = |prefix: &str| {
        tags.iter()
            .find_map(|tag| tag.strip_prefix(prefix))
            .map(decode)
    };
    Labels {
        name: value(TAG_NAME).unwrap_or_default(),
        project: value(TAG_PROJECT).unwrap_or_default(),
    }
}

/// Writes any text in the characters LVM allows in a tag: `+` and two hexadecimal digits for each other byte.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for character in text.chars() {
        let mut bytes = [0; 4];
        let piece: String = match character {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '.' | '-' => character.to_string(),
            _ => character
                .encode_utf8(&mut bytes)
                .bytes()
                .map(|byte| format!("+{byte:02x}"))
                .collect(),
        };
        if encoded.len() + piece.len() > TAG_VALUE_BYTES_MAX {
            break;
        }
        encoded.push_str(&piece);
    }
    encoded
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let escaped = rest.get(1..3).filter(|_| character == '+');
        if let Some(byte) = escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = rest.get(3..).unwrap_or("");
        } else {
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = rest.get(character.len_utf8()..).unwrap_or("");
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn group_names_are_what_lvm_allows() {
        for good in ["cinder-volumes", "vg.0", "A+b_c"] {
            assert_eq!(good.parse::<VgName>().unwrap().as_str(), good);
        }
        let long = "x".repeat(65);
        for bad in ["", "-a", ".", "..", "a b", "a/b", "é", "a'b", long.as_str()] {
            assert!(bad.parse::<VgName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_volume_has_one_name_and_nothing_else_is_one() {
        let id: Uuid = "6f0cf2d4-45b0-4f25-9c21-6d1c6a4d6f6a".parse().unwrap();
        assert_eq!(
            volume_name(id),
            "volume-6f0cf2d4-45b0-4f25-9c21-6d1c6a4d6f6a"
        );
        assert_eq!(volume_id(&volume_name(id)), Some(id));
        for other in [
            "volume-x",
            "volume-6F0CF2D4-45b0-4f25-9c21-6d1c6a4d6f6a",
            "root",
            "onggi-zeroing-x",
        ] {
            assert_eq!(volume_id(other), None, "{other}");
        }
        assert!(is_zeroing(&zeroing_name(id)));
    }

    proptest! {
        #[test]
        fn labels_survive_tags_and_tags_are_what_lvm_allows(name in "\\PC{0,60}", project in "[0-9a-f]{32}") {
            let labels = Labels { name, project };
            let tags = label_tags(&labels);
            for tag in &tags {
                prop_assert!(tag.len() <= 1_024 && is_label_tag(tag));
                prop_assert!(tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&b)), "{}", tag);
            }
            prop_assert_eq!(labels_of(&tags), labels);
        }

        #[test]
        fn a_long_name_is_cut_at_a_whole_character(name in "\\PC{300,400}") {
            let tags = label_tags(&Labels { name: name.clone(), project: String::new() });
            prop_assert!(tags[0].len() <= 1_024);
            prop_assert!(name.starts_with(&labels_of(&tags).name));
        }

        #[test]
        fn any_tag_can_be_read(tag in "\\PC{0,40}") {
            drop(labels_of(&[format!("onggi.name={tag}")]));
        }
    }
}

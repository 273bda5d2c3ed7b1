//! The configuration our LVM commands run with, and no other command of the machine.

use std::path::Path;

/// What differs from one machine to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether volumes are activated, that is, whether the kernel's device-mapper is used at all.
    pub activation: bool,
    /// Whether udev makes the device nodes; otherwise LVM does.
    pub udev: bool,
}

/// The text of lvm.conf for one device.
///
/// The locking directory is left as the machine has it, on purpose: an operator's own commands and ours must wait for
/// each other.
#[must_use]
pub fn text(device: &Path, surroundings: Surroundings) -> String {
    let pattern = regex_of(device);
    let filter = format!("[ \"a|^{pattern}$|\", \"r|.*|\" ]");
    let (activation, udev) = (
        u8::from(surroundings.activation),
        u8::from(surroundings.udev),
    );
    format!(
        "# Written by Onggi at each start: only its own device is seen, nothing is activated by itself.\n\
         devices {{\n\
         \tdir = \"/dev\"\n\
         \tscan = [ \"/dev\" ]\n\
         \tfilter = {filter}\n\
         \tglobal_filter = {filter}\n\
         \tuse_devicesfile = 0\n\
         \thints = \"none\"\n\
         \tobtain_device_list_from_udev = 0\n\
         \texternal_device_info_source = \"none\"\n\
         }}\n\
         global {{\n\
         \tactivation = {activation}\n\
         \tuse_lvmpolld = 0\n\
         \tevent_activation = 0\n\
         }}\n\
         activation {{\n\
         \tudev_sync = {udev}\n\
         \tudev_rules = {udev}\n\
         \tmonitoring = 0\n\
         }}\n"
    )
}

/// The path as a regular expression of LVM's kind, with nothing special left in it.
fn regex_of(path: &Path) -> String {
    let mut pattern = String::new();
    for character in path.to_string_lossy().chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '/' | '_' | '-' => pattern.push(character),
            // A dot matches any one character: wide enough for what cannot be written, and still one device's name.
            _ => pattern.push('.'),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_device_passes_the_filter() {
        let text = text(
            Path::new("/dev/loop3"),
            Surroundings {
                activation: false,
                udev: true,
            },
        );
        assert!(
            text.contains("\tglobal_filter = [ \"a|^/dev/loop3$|\", \"r|.*|\" ]\n"),
            "{text}"
        );
        assert!(text.contains("\tactivation = 0\n") && text.contains("\tudev_sync = 1\n"));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn a_strange_path_cannot_break_out_of_the_filter() {
        let text = text(
            Path::new("/dev/a|\"]\n}"),
            Surroundings {
                activation: true,
                udev: false,
            },
        );
        assert!(text.contains("a|^/dev/a.....$|"), "{text}");
    }
}

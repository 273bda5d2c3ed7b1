//! A bar for large transfers, on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;

/// Transfers from this size on have a bar.
const BAR_FROM_BYTES: u64 = 8 << 20;

/// A bar for a transfer of so many bytes, hidden where nobody would see it.
pub(crate) fn bar(name: &str, length: Option<u64>) -> ProgressBar {
    let is_shown =
        std::io::stderr().is_terminal() && length.is_none_or(|length| length >= BAR_FROM_BYTES);
    let target = if is_shown {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(length, target);
    let template = if length.is_some() {
        "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"
    } else {
        "{msg} {bytes} {bytes_per_sec}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(crate::output::printable(name));
    bar
}

//! `list`: containers, or what is in one.

use crate::cli::List;
use crate::output::{self, human, printable};
use crate::store::{Line, Listing, Store};
use anyhow::Result;

pub(super) async fn run(store: &Store, list: List, json: bool) -> Result<()> {
    let style = Style {
        is_long: list.long || list.lh,
        is_human: list.lh,
        is_account: list.container.is_none(),
    };
    let what = Listing {
        container: list.container,
        prefix: list.prefix,
        delimiter: list.delimiter,
    };
    let (mut marker, mut all, mut bytes, mut count) = (String::new(), Vec::new(), 0u64, 0u64);
    loop {
        let page = store.page(&what, &marker).await?;
        let Some(last) = page.last() else { break };
        last.text().clone_into(&mut marker);
        for line in page {
            bytes = bytes.saturating_add(line.bytes.unwrap_or(0));
            count = count.saturating_add(line.count.unwrap_or(0));
            if json {
                all.push(line);
            } else {
                output::line(&style.line(&line))?;
            }
        }
    }
    if json {
        return output::json(&all);
    }
    if style.is_long {
        output::line(&style.total(bytes, count))?;
    }
    Ok(())
}

struct Style {
    is_long: bool,
    is_human: bool,
    is_account: bool,
}

impl Style {
    fn size(&self, bytes: u64) -> String {
        if self.is_human {
            format!("{:>5}", human(bytes))
        } else {
            format!("{bytes:>12}")
        }
    }

    fn line(&self, line: &Line) -> String {
        let name = printable(line.text());
        if !self.is_long {
            return name;
        }
        let bytes = line
            .bytes
            .map_or_else(|| " ".repeat(self.size(0).len()), |bytes| self.size(bytes));
        let modified = line.last_modified.as_deref().unwrap_or_default();
        let modified = modified
            .split('.')
            .next()
            .unwrap_or_default()
            .replace('T', " ");
        if self.is_account {
            let count = line
                .count
                .map(|count| count.to_string())
                .unwrap_or_default();
            return format!("{count:>8} {bytes} {modified:>19} {name}");
        }
        let kind = printable(line.content_type.as_deref().unwrap_or_default());
        format!("{bytes} {modified:>19} {kind:>24} {name}")
    }

    fn total(&self, bytes: u64, count: u64) -> String {
        if self.is_account {
            format!("{count:>8} {}", self.size(bytes))
        } else {
            self.size(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_has_size_date_kind_and_name() {
        let line = Line {
            name: Some("o".to_owned()),
            subdir: None,
            bytes: Some(2048),
            count: None,
            hash: None,
            content_type: Some("text/plain".to_owned()),
            last_modified: Some("2026-11-23T14:00:00.123450".to_owned()),
            slo_etag: None,
        };
        let style = Style {
            is_long: true,
            is_human: true,
            is_account: false,
        };
        assert_eq!(
            style.line(&line),
            " 2.0K 2026-11-23 14:00:00               text/plain o"
        );
        let style = Style {
            is_long: false,
            is_human: false,
            is_account: false,
        };
        assert_eq!(style.line(&line), "o");
    }
}

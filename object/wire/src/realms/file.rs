//! The realms file: sections of `name = value`, as Python's `configparser` reads them.

use super::{CHECK_INTERVAL, Endpoint, Realm, Realms};
use core::time::Duration;
use onggi_common_units::Secret;
use std::collections::BTreeMap;

/// The longest file.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Realms of one file, and clusters of one realm.
const ENTRIES_MAX: usize = 1_000;
/// Seconds between two looks at the file, at most.
const CHECK_SECONDS_MAX: f64 = 86_400.0;

/// What is wrong with a realms file, and in which line. Never with a value in it: it may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RealmsError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// More bytes, realms or clusters than are read.
    #[error("the file is too large")]
    TooLarge,
    /// No section, no `name = value`, no comment.
    #[error("neither [realm] nor name = value")]
    Syntax,
    /// A line that begins with a blank, which would go on with the one before.
    #[error("it begins with a blank; a value has one line")]
    Continued,
    /// Before the first section.
    #[error("it belongs to no [realm]")]
    NoSection,
    /// A realm's or cluster's name that no header can carry.
    #[error("a name has no blanks and no slash in it, and is not empty")]
    Name,
    /// A realm, or a name within one, for the second time.
    #[error("it was said before")]
    Twice,
    /// A name that means nothing.
    #[error(
        "a realm has key, key2 and cluster_NAME, [DEFAULT] has mtime_check_interval; nothing else"
    )]
    Unknown,
    /// A percent sign that is not doubled.
    #[error("a percent sign in a value is written twice: %%")]
    Percent,
    /// A key that is empty.
    #[error("the key is empty")]
    EmptyKey,
    /// A section without `key`.
    #[error("the realm has no key")]
    NoKey,
    /// A cluster that is not at a URL.
    #[error("a cluster is at http://host[:port]/v1/ or https://host[:port]/v1/")]
    Endpoint,
    /// No number of seconds.
    #[error("mtime_check_interval is a number of seconds from 0 to {CHECK_SECONDS_MAX}")]
    Interval,
}

/// A value with its doubled percent signs made single.
fn value(text: &str) -> Result<String, Problem> {
    let single = text.replace("%%", "");
    if single.contains('%') {
        return Err(Problem::Percent);
    }
    Ok(text.replace("%%", "%"))
}

fn name(text: &str) -> Result<String, Problem> {
    let is_well = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '/');
    if is_well {
        Ok(text.to_uppercase())
    } else {
        Err(Problem::Name)
    }
}

fn key(text: &str) -> Result<Secret, Problem> {
    let key = value(text)?;
    if key.is_empty() {
        Err(Problem::EmptyKey)
    } else {
        Ok(Secret::new(key))
    }
}

pub(super) fn endpoint(text: &str) -> Option<Endpoint> {
    let (is_secure, rest) = match text.split_once("://")? {
        ("http", rest) => (false, rest),
        ("https", rest) => (true, rest),
        _ => return None,
    };
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '@' | '\\');
    if !rest.chars().all(is_plain) {
        return None;
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            let port = if after.is_empty() {
                None
            } else {
                Some(after.strip_prefix(':')?)
            };
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(digits) => digits.parse().ok().filter(|port| *port != 0)?,
        None if is_secure => 443,
        None => 80,
    };
    let path = path.trim_end_matches('/');
    if host.is_empty() || path.is_empty() {
        return None;
    }
    Some(Endpoint {
        is_secure,
        host: host.to_owned(),
        port,
        authority: authority.to_owned(),
        path: format!("/{path}"),
    })
}

/// A realm whose section is being read.
#[derive(Default)]
struct Open {
    line: usize,
    key: Option<Secret>,
    key2: Option<Secret>,
    clusters: BTreeMap<String, Endpoint>,
}

impl Open {
    fn set(&mut self, option: &str, text: &str) -> Result<(), Problem> {
        let twice = |is_new: bool| if is_new { Ok(()) } else { Err(Problem::Twice) };
        match option {
            "key" => twice(self.key.replace(key(text)?).is_none()),
            "key2" => twice(self.key2.replace(key(text)?).is_none()),
            _ => {
                let cluster = option.strip_prefix("cluster_").ok_or(Problem::Unknown)?;
                let endpoint = endpoint(&value(text)?).ok_or(Problem::Endpoint)?;
                twice(self.clusters.insert(name(cluster)?, endpoint).is_none())?;
                if self.clusters.len() > ENTRIES_MAX {
                    return Err(Problem::TooLarge);
                }
                Ok(())
            }
        }
    }
}

fn interval(option: &str, text: &str) -> Result<Duration, Problem> {
    if option != "mtime_check_interval" {
        return Err(Problem::Unknown);
    }
    let seconds: f64 = text.parse().map_err(|_no_number| Problem::Interval)?;
    if !(0.0..=CHECK_SECONDS_MAX).contains(&seconds) {
        return Err(Problem::Interval);
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// What a line is.
enum Line<'a> {
    Nothing,
    Section(&'a str),
    Option(String, &'a str),
}

fn line(text: &str) -> Result<Line<'_>, Problem> {
    let bare = text.trim();
    if bare.is_empty() || bare.starts_with(['#', ';']) {
        return Ok(Line::Nothing);
    }
    if text.starts_with([' ', '\t']) {
        return Err(Problem::Continued);
    }
    if let Some(section) = bare.strip_prefix('[') {
        return Ok(Line::Section(
            section.strip_suffix(']').ok_or(Problem::Syntax)?,
        ));
    }
    let at = bare.find(['=', ':']).ok_or(Problem::Syntax)?;
    let (option, rest) = bare.split_at(at);
    let option = option.trim().to_lowercase();
    if option.is_empty() {
        return Err(Problem::Syntax);
    }
    let rest = rest.get(1..).unwrap_or_default();
    Ok(Line::Option(option, rest.trim()))
}

#[derive(Default)]
struct Reading {
    check_interval: Option<Duration>,
    realms: BTreeMap<String, Open>,
    /// The section that is open: `None` before the first, an empty name for `[DEFAULT]`.
    section: Option<String>,
}

impl Reading {
    fn take(&mut self, text: &str, number: usize) -> Result<(), Problem> {
        match line(text)? {
            Line::Nothing => Ok(()),
            Line::Section("DEFAULT") => {
                self.section = Some(String::new());
                Ok(())
            }
            Line::Section(section) => {
                let section = name(section)?;
                let open = Open {
                    line: number,
                    ..Open::default()
                };
                if self.realms.insert(section.clone(), open).is_some() {
                    return Err(Problem::Twice);
                }
                self.section = Some(section);
                if self.realms.len() > ENTRIES_MAX {
                    return Err(Problem::TooLarge);
                }
                Ok(())
            }
            Line::Option(option, text) => {
                let section = self.section.as_ref().ok_or(Problem::NoSection)?;
                match self.realms.get_mut(section) {
                    Some(realm) => realm.set(&option, text),
                    None => {
                        let interval = interval(&option, text)?;
                        match self.check_interval.replace(interval) {
                            Some(_) => Err(Problem::Twice),
                            None => Ok(()),
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Realms, RealmsError> {
    let mut reading = Reading::default();
    if text.len() > FILE_BYTES_MAX {
        return Err(RealmsError {
            line: 1,
            problem: Problem::TooLarge,
        });
    }
    for (index, text) in text.lines().enumerate() {
        let number = index + 1;
        let failed = |problem| RealmsError {
            line: number,
            problem,
        };
        reading.take(text, number).map_err(failed)?;
    }
    let mut realms = BTreeMap::new();
    for (name, open) in reading.realms {
        let missing = || RealmsError {
            line: open.line,
            problem: Problem::NoKey,
        };
        let realm = Realm {
            key: open.key.ok_or_else(missing)?,
            key2: open.key2,
            clusters: open.clusters,
        };
        realms.insert(name, realm);
    }
    Ok(Realms {
        check_interval: reading.check_interval.unwrap_or(CHECK_INTERVAL),
        realms,
    })
}

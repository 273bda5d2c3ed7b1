//! Where credentials and state are: the environment, or the openrc file the daemon wrote.

use anyhow::{Context as _, Result, bail};
use onggi_common_units::Secret;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes an openrc file may have.
const OPENRC_BYTES_MAX: u64 = 64 << 10;
/// The openrc files the daemon writes into its state folder, best first.
const OPENRC_NAMES: [&str; 3] = ["openrc", "admin-openrc", "demo-openrc"];
/// Where the daemon keeps its state when it runs as root.
const SYSTEM_STATE: &str = "/var/lib/onggi";

/// Variables by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables(BTreeMap<String, String>);

/// An id or a name with its domain, as Keystone takes both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// By id.
    Id(String),
    /// By name, in a domain given by id or name.
    Name { name: String, domain: Domain },
}

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Domain {
    /// By id.
    Id(String),
    /// By name.
    Name(String),
}

/// How volctl proves who it is.
#[derive(Debug)]
pub(crate) enum Credentials {
    /// By password, at an identity service.
    Password {
        auth_url: String,
        user: Reference,
        password: Secret,
        project: Reference,
        region: Option<String>,
        interface: String,
    },
    /// By a token that is there already, at a volume service that is named.
    Token { token: Secret, endpoint: String },
}

impl Variables {
    /// This process's environment, or, when it has no `OS_*` variables, the first openrc file that is readable.
    ///
    /// `notice` is told which file was used.
    pub(crate) fn load(notice: impl Fn(&str)) -> Result<Self> {
        let environment = Self(std::env::vars().collect());
        if environment.has_credentials() {
            return Ok(environment);
        }
        let names = |state: PathBuf| OPENRC_NAMES.map(|name| state.join(name));
        for path in environment.state_candidates().into_iter().flat_map(names) {
            if let Some(text) = read_if_readable(&path)? {
                notice(&format!(
                    "no OS_* variables are set; using {}",
                    path.display()
                ));
                let mut merged = environment.clone();
                merged.0.extend(parse_openrc(&text));
                return Ok(merged);
            }
        }
        Ok(environment)
    }

    fn has_credentials(&self) -> bool {
        self.0
            .iter()
            .any(|(name, value)| name.starts_with("OS_") && !value.is_empty())
    }

    /// The value of the first of these names that is set and not empty.
    fn first(&self, names: &[&str]) -> Option<String> {
        names
            .iter()
            .find_map(|name| self.0.get(*name).filter(|value| !value.is_empty()).cloned())
    }

    fn state_candidates(&self) -> Vec<PathBuf> {
        if let Some(state) = self.first(&["ONGGI_STATE"]) {
            return vec![PathBuf::from(state)];
        }
        let mut candidates = vec![PathBuf::from(SYSTEM_STATE)];
        candidates.extend(self.user_state());
        candidates
    }

    fn user_state(&self) -> Option<PathBuf> {
        let data = self.first(&["XDG_DATA_HOME"]).map(PathBuf::from);
        let home = || {
            self.first(&["HOME"])
                .map(|home| Path::new(&home).join(".local/share"))
        };
        data.or_else(home).map(|data| data.join("onggi"))
    }

    /// Where volctl keeps what it must remember of this host.
    pub(crate) fn state_dir(&self, is_root: bool) -> Result<PathBuf> {
        match (self.first(&["ONGGI_STATE"]), is_root) {
            (Some(state), _) => Ok(PathBuf::from(state)),
            (None, true) => Ok(PathBuf::from(SYSTEM_STATE)),
            (None, false) => self
                .user_state()
                .context("neither ONGGI_STATE nor HOME is set"),
        }
    }

    /// Configuration files to look into, best first.
    pub(crate) fn config_candidates(&self) -> Vec<PathBuf> {
        let mut candidates: Vec<PathBuf> = self
            .state_candidates()
            .into_iter()
            .map(|state| state.join("onggi.toml"))
            .collect();
        candidates.push(PathBuf::from("/etc/onggi/onggi.toml"));
        candidates
    }

    fn reference(
        &self,
        ids: &[&str],
        names: &[&str],
        domain_id: &[&str],
        domain_name: &[&str],
    ) -> Option<Reference> {
        if let Some(id) = self.first(ids) {
            return Some(Reference::Id(id));
        }
        let domain = match (self.first(domain_id), self.first(domain_name)) {
            (Some(id), _) => Domain::Id(id),
            (None, Some(name)) => Domain::Name(name),
            (None, None) => Domain::Id("default".to_owned()),
        };
        Some(Reference::Name {
            name: self.first(names)?,
            domain,
        })
    }

    /// The credentials these variables hold.
    pub(crate) fn credentials(&self) -> Result<Credentials> {
        if let Some(token) = self.first(&["OS_TOKEN", "OS_AUTH_TOKEN"])
            && let Some(endpoint) = self.first(&[
                "OS_VOLUME_ENDPOINT",
                "OS_ENDPOINT",
                "OS_BLOCK_STORAGE_ENDPOINT_OVERRIDE",
            ])
        {
            let endpoint = endpoint.trim_end_matches('/').to_owned();
            return Ok(Credentials::Token {
                token: Secret::new(token),
                endpoint,
            });
        }
        let auth_url = self
            .first(&["OS_AUTH_URL"])
            .with_context(|| missing("OS_AUTH_URL"))?;
        if let Some(kind) = self.first(&["OS_AUTH_TYPE"])
            && !matches!(kind.as_str(), "password" | "v3password")
        {
            bail!("OS_AUTH_TYPE is {kind}: volctl knows password only");
        }
        let (user_domain, project_domain) = (
            (
                ["OS_USER_DOMAIN_ID", "OS_DEFAULT_DOMAIN_ID"],
                ["OS_USER_DOMAIN_NAME", "OS_DEFAULT_DOMAIN_NAME"],
            ),
            (
                ["OS_PROJECT_DOMAIN_ID", "OS_DEFAULT_DOMAIN_ID"],
                ["OS_PROJECT_DOMAIN_NAME", "OS_DEFAULT_DOMAIN_NAME"],
            ),
        );
        let user = self.reference(
            &["OS_USER_ID"],
            &["OS_USERNAME"],
            &user_domain.0,
            &user_domain.1,
        );
        let project_ids = ["OS_PROJECT_ID", "OS_TENANT_ID"];
        let project_names = ["OS_PROJECT_NAME", "OS_TENANT_NAME"];
        let project = self.reference(
            &project_ids,
            &project_names,
            &project_domain.0,
            &project_domain.1,
        );
        Ok(Credentials::Password {
            auth_url,
            user: user.with_context(|| missing("OS_USERNAME"))?,
            password: Secret::new(
                self.first(&["OS_PASSWORD"])
                    .with_context(|| missing("OS_PASSWORD"))?,
            ),
            project: project.with_context(|| missing("OS_PROJECT_NAME"))?,
            region: self.first(&["OS_REGION_NAME"]),
            interface: self.interface(),
        })
    }

    fn interface(&self) -> String {
        let wanted = self.first(&["OS_INTERFACE", "OS_ENDPOINT_TYPE"]);
        // Old clients write publicURL.
        wanted.map_or_else(
            || "public".to_owned(),
            |name| name.trim_end_matches("URL").to_owned(),
        )
    }
}

fn missing(name: &str) -> String {
    format!("{name} is not set: source the openrc file that onggid wrote into its state directory")
}

fn read_if_readable(path: &Path) -> Result<Option<String>> {
    use std::io::Read as _;
    let Ok(file) = std::fs::File::open(path) else {
        return Ok(None);
    };
    let mut text = String::new();
    file.take(OPENRC_BYTES_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(text))
}

/// The variables an openrc file sets: lines of `export NAME=value`, the value plain or quoted.
fn parse_openrc(text: &str) -> BTreeMap<String, String> {
    let assignment = |line: &str| {
        let line = line.trim();
        let (name, value) = line
            .strip_prefix("export ")
            .unwrap_or(line)
            .split_once('=')?;
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        is_name.then(|| (name.to_owned(), unquote(value.trim())))
    };
    text.lines().filter_map(assignment).collect()
}

fn unquote(value: &str) -> String {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(single) = inner('\'') {
        // A quote inside single quotes is written '\''.
        return single.replace("'\\''", "'");
    }
    match inner('"') {
        Some(double) => double
            .replace("\\\"", "\"")
            .replace("\\$", "$")
            .replace("\\\\", "\\"),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        Variables(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    const FULL: [(&str, &str); 4] = [
        ("OS_AUTH_URL", "http://127.0.0.1:5000/v3"),
        ("OS_USERNAME", "admin"),
        ("OS_PASSWORD", "s3cret"),
        ("OS_PROJECT_NAME", "admin"),
    ];

    #[test]
    fn an_openrc_file_is_read_without_a_shell() {
        let text = "# comment\nexport OS_USERNAME=admin\nexport OS_PASSWORD='it'\\''s'\nOS_AUTH_URL=\"http://h\"\nunset X\n";
        let parsed = parse_openrc(text);
        assert_eq!(parsed["OS_USERNAME"], "admin");
        assert_eq!(parsed["OS_PASSWORD"], "it's");
        assert_eq!(parsed["OS_AUTH_URL"], "http://h");
        assert_eq!(parsed.len(), 3);
    }

    #[test]
    fn each_missing_variable_is_named() {
        for (name, _) in FULL {
            let rest: Vec<_> = FULL
                .into_iter()
                .filter(|(other, _)| *other != name)
                .collect();
            let error = variables(&rest).credentials().unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("{name} is not set")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_password_does_not_print() {
        let credentials = variables(&FULL).credentials().unwrap();
        assert!(!format!("{credentials:?}").contains("s3cret"));
    }

    #[test]
    fn a_token_with_an_endpoint_needs_nothing_else() {
        let set = variables(&[
            ("OS_TOKEN", "t"),
            ("OS_VOLUME_ENDPOINT", "http://h:8776/v3/"),
        ]);
        let Credentials::Token { endpoint, .. } = set.credentials().unwrap() else {
            panic!("no token")
        };
        assert_eq!(endpoint, "http://h:8776/v3");
    }

    #[test]
    fn domains_default_to_the_default_one() {
        let Credentials::Password {
            user, interface, ..
        } = variables(&FULL).credentials().unwrap()
        else {
            panic!("no password")
        };
        let domain = Domain::Id("default".to_owned());
        assert_eq!(
            user,
            Reference::Name {
                name: "admin".to_owned(),
                domain
            }
        );
        assert_eq!(interface, "public");
    }

    #[test]
    fn other_ways_to_authenticate_are_refused_by_name() {
        let mut set = variables(&FULL);
        set.0
            .insert("OS_AUTH_TYPE".to_owned(), "v3oidcpassword".to_owned());
        assert!(
            set.credentials()
                .unwrap_err()
                .to_string()
                .contains("v3oidcpassword")
        );
    }

    #[test]
    fn state_is_where_the_daemon_keeps_it() {
        let set = variables(&[("HOME", "/home/a")]);
        assert_eq!(set.state_dir(true).unwrap(), Path::new("/var/lib/onggi"));
        assert_eq!(
            set.state_dir(false).unwrap(),
            Path::new("/home/a/.local/share/onggi")
        );
        assert_eq!(
            variables(&[("ONGGI_STATE", "/s")])
                .state_dir(false)
                .unwrap(),
            Path::new("/s")
        );
    }
}

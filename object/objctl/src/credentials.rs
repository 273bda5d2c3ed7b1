//! Where credentials come from: the environment, then the `openrc` file of the state directory.

use anyhow::{Context as _, Result, bail};
use onggi_common_units::Secret;
use std::collections::HashMap;
use std::path::PathBuf;

/// Bytes of an `openrc` file.
const OPENRC_BYTES_MAX: u64 = 64 << 10;
/// The `openrc` files, best first.
const OPENRC_NAMES: [&str; 3] = ["openrc", "admin-openrc", "demo-openrc"];
/// Of each kind of credentials, the variables of which one alone is a mistake.
const TOKEN_NAMES: [&str; 2] = ["OS_STORAGE_URL", "OS_AUTH_TOKEN"];
const V1_NAMES: [&str; 3] = ["ST_AUTH", "ST_USER", "ST_KEY"];
const V3_NAMES: [&str; 6] = [
    "OS_AUTH_URL",
    "OS_USERNAME",
    "OS_PASSWORD",
    "OS_PROJECT_NAME",
    "OS_PROJECT_ID",
    "OS_TENANT_NAME",
];

/// How to get to an account.
#[derive(Debug)]
pub(crate) enum Credentials {
    /// v1: user and key in headers.
    V1 {
        /// `http://host:port/auth/v1.0`
        url: String,
        user: String,
        key: Secret,
    },
    /// Keystone v3: user and password in a project.
    V3(Box<V3>),
    /// A token had elsewhere.
    Token { storage_url: String, token: Secret },
}

/// A user of Keystone.
#[derive(Debug)]
pub(crate) struct V3 {
    /// `http://host:port/v3`
    pub(crate) url: String,
    pub(crate) user: String,
    pub(crate) user_domain: Domain,
    pub(crate) password: Secret,
    pub(crate) project: Project,
    pub(crate) project_domain: Domain,
    pub(crate) region: Option<String>,
}

/// A project by name or id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Project {
    Name(String),
    Id(String),
}

/// A domain by name or id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    Name(String),
    Id(String),
}

/// Variables by name.
type Variables = HashMap<String, String>;

/// Takes credentials from the environment, or from the state directory's `openrc`.
pub(crate) fn find() -> Result<Credentials> {
    let environment: Variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    if let Some(found) = from(&environment)? {
        return Ok(found);
    }
    for path in candidates(&environment) {
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        if metadata.len() > OPENRC_BYTES_MAX {
            continue;
        }
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_not_ours) => continue,
        };
        if let Some(found) =
            from(&parse_openrc(&text)).with_context(|| format!("in {}", path.display()))?
        {
            return Ok(found);
        }
    }
    bail!(
        "no credentials: set ST_AUTH, ST_USER and ST_KEY, or OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME \
         (source the openrc file)"
    )
}

fn candidates(environment: &Variables) -> Vec<PathBuf> {
    let mut states = Vec::new();
    if let Some(state) = environment.get("ONGGI_STATE") {
        states.push(PathBuf::from(state));
    } else {
        let home = environment
            .get("HOME")
            .map(|home| PathBuf::from(home).join(".local/share"));
        let data = environment.get("XDG_DATA_HOME").map(PathBuf::from).or(home);
        states.push(PathBuf::from("/var/lib/onggi"));
        states.extend(data.map(|data| data.join("onggi")));
    }
    states
        .iter()
        .flat_map(|state| OPENRC_NAMES.iter().map(|name| state.join(name)))
        .collect()
}

/// `export NAME=value` lines; the value may be quoted. Nothing is evaluated.
fn parse_openrc(text: &str) -> Variables {
    let mut variables = Variables::new();
    for line in text.lines().map(str::trim) {
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        let value = value.trim();
        let value = match value
            .strip_prefix('\'')
            .and_then(|value| value.strip_suffix('\''))
        {
            Some(inner) => inner.replace("'\\''", "'"),
            None => value.trim_matches('"').to_owned(),
        };
        if !name.starts_with('#') {
            variables.insert(name.trim().to_owned(), value);
        }
    }
    variables
}

/// Takes credentials from variables. Some of a set that are there without the others are refused: falling back to other
/// credentials would act as someone the user did not name.
fn from(variables: &Variables) -> Result<Option<Credentials>> {
    let get = |name: &str| {
        variables
            .get(name)
            .filter(|value| !value.is_empty())
            .cloned()
    };
    if let (Some(storage_url), Some(token)) = (get("OS_STORAGE_URL"), get("OS_AUTH_TOKEN")) {
        return Ok(Some(Credentials::Token {
            storage_url,
            token: Secret::new(token),
        }));
    }
    if let Some(set) = first_set(variables, &V1_NAMES) {
        let need = |name: &str| get(name).with_context(|| format!("{set} is set, {name} is not"));
        return Ok(Some(Credentials::V1 {
            url: need("ST_AUTH")?,
            user: need("ST_USER")?,
            key: Secret::new(need("ST_KEY")?),
        }));
    }
    if let Some(set) = first_set(variables, &V3_NAMES) {
        return v3(&get, set).map(|v3| Some(Credentials::V3(Box::new(v3))));
    }
    match first_set(variables, &TOKEN_NAMES) {
        Some("OS_STORAGE_URL") => bail!("OS_STORAGE_URL is set, OS_AUTH_TOKEN is not"),
        Some(set) => bail!("{set} is set, OS_STORAGE_URL is not"),
        None => Ok(None),
    }
}

/// The first of these variables that says something.
fn first_set(variables: &Variables, names: &[&'static str]) -> Option<&'static str> {
    let is_set = |name: &&&str| variables.get(**name).is_some_and(|value| !value.is_empty());
    names.iter().find(is_set).copied()
}

/// All that Keystone needs, of which the variable `set` is there.
fn v3(get: &impl Fn(&str) -> Option<String>, set: &str) -> Result<V3> {
    let missing = |name: &str| format!("{set} is set, {name} is not");
    let need = |name: &str| get(name).with_context(|| missing(name));
    let domain = |kind: &str| {
        let name = get(&format!("OS_{kind}_DOMAIN_NAME")).map(Domain::Name);
        let id = get(&format!("OS_{kind}_DOMAIN_ID")).map(Domain::Id);
        id.or(name)
            .unwrap_or_else(|| Domain::Id("default".to_owned()))
    };
    let project = get("OS_PROJECT_ID").map(Project::Id);
    let project = project.or_else(|| {
        get("OS_PROJECT_NAME")
            .or_else(|| get("OS_TENANT_NAME"))
            .map(Project::Name)
    });
    Ok(V3 {
        url: need("OS_AUTH_URL")?,
        user: need("OS_USERNAME")?,
        user_domain: domain("USER"),
        password: Secret::new(need("OS_PASSWORD")?),
        project: project.with_context(|| missing("OS_PROJECT_NAME"))?,
        project_domain: domain("PROJECT"),
        region: get("OS_REGION_NAME"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn v1_and_v3_are_told_apart_and_gaps_are_named() {
        let v1 = variables(&[
            ("ST_AUTH", "http://h/auth/v1.0"),
            ("ST_USER", "test:tester"),
            ("ST_KEY", "k"),
        ]);
        assert!(matches!(from(&v1), Ok(Some(Credentials::V1 { .. }))));
        let gap = variables(&[("ST_AUTH", "http://h"), ("ST_USER", "u")]);
        assert_eq!(
            from(&gap).unwrap_err().to_string(),
            "ST_AUTH is set, ST_KEY is not"
        );
        for (pairs, message) in [
            (
                &[("ST_USER", "u"), ("ST_KEY", "k")][..],
                "ST_USER is set, ST_AUTH is not",
            ),
            (
                &[("OS_USERNAME", "u"), ("OS_PASSWORD", "p")],
                "OS_USERNAME is set, OS_AUTH_URL is not",
            ),
            (
                &[("OS_AUTH_URL", "u"), ("OS_PASSWORD", "")],
                "OS_AUTH_URL is set, OS_USERNAME is not",
            ),
            (
                &[("OS_AUTH_TOKEN", "t")],
                "OS_AUTH_TOKEN is set, OS_STORAGE_URL is not",
            ),
            (
                &[("OS_STORAGE_URL", "u")],
                "OS_STORAGE_URL is set, OS_AUTH_TOKEN is not",
            ),
        ] {
            let error = from(&variables(pairs)).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        // A region alone is nobody.
        let region = variables(&[("OS_REGION_NAME", "r"), ("OS_USERNAME", "")]);
        assert!(from(&region).unwrap().is_none());
        assert!(from(&Variables::new()).unwrap().is_none());
    }

    #[test]
    fn an_openrc_file_is_read_and_not_run() {
        let text = "# demo\nexport OS_AUTH_URL=http://h:5000/v3\nexport OS_USERNAME='de'\\''mo'\n\
                    export OS_PASSWORD=\"p$(x)\"\nexport OS_PROJECT_NAME=demo\nrm -rf /\n";
        let Ok(Some(Credentials::V3(v3))) = from(&parse_openrc(text)) else {
            panic!("no v3")
        };
        assert_eq!((v3.user.as_str(), v3.password.expose()), ("de'mo", "p$(x)"));
        assert_eq!(v3.user_domain, Domain::Id("default".to_owned()));
    }
}

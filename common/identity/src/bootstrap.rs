//! The first start: domain, roles, projects, an admin with a random password, and the catalogue.
//!
//! A password is written to its file before the user gets it, so a crash in between loses none. Once everything was made
//! a row says so, and later starts leave users, roles and grants alone: what an operator took away stays away. Only
//! endpoints that nobody changed by hand follow the configuration.

use crate::caller::{ADMIN, DEFAULT_DOMAIN, MEMBER, READER, RESELLER_ADMIN, SERVICE};
use crate::directory::DirectoryError;
use crate::directory::row::{
    DomainRow, EndpointRow, GrantRow, Interface, ProjectRow, RegionRow, RoleRow, ServiceRow,
    StateRow, Target, UserRow,
};
use crate::options::Options;
use crate::realm::Realm;
use onggi_common_host::durable::{self, DurableError, Visibility};
use onggi_common_units::Secret;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Letters and digits of a generated password: 142 bits.
const PASSWORD_CHARS: usize = 24;
/// Bytes of a credentials file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// The state row that says a first start was completed.
const DONE: &str = "bootstrap";
/// The state row that says the first admin was given the role that reaches every object account. Programs before this one
/// let every admin reach them.
const RESELLER_DONE: &str = "bootstrap-reseller";

/// The first start could not be completed. Starting again goes on where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The store failed.
    #[error("preparing the identity store: {detail}")]
    Store {
        /// What it said.
        detail: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// A file could not be read.
    #[error("reading {path}: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A credentials file that is none.
    #[error("{path} is not a credentials file (line {line}): repair it, or remove it to do without", path = path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
    },
}

impl From<DirectoryError> for BootstrapError {
    fn from(error: DirectoryError) -> Self {
        Self::Store {
            detail: error.to_string(),
        }
    }
}

/// What a user made at first start logs in with.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password the user was made with; the user may have changed it since.
    pub password: Secret,
    /// The project's name.
    pub project: String,
}

/// The credentials of the users made at first start; `None` when the file that kept them is gone.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// The user who may do everything.
    pub admin: Option<Credentials>,
    /// An ordinary user to try things with.
    pub demo: Option<Credentials>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialsFile {
    username: String,
    password: String,
    project: String,
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Credentials {
    /// A shell file that sets what the stock OpenStack and Swift clients read.
    #[must_use]
    pub fn openrc(&self, options: &Options) -> String {
        let v1_user = format!("{}:{}", self.project, self.username);
        let settings = [
            ("OS_AUTH_URL", format!("{}/v3", options.identity_url)),
            ("OS_USERNAME", self.username.clone()),
            ("OS_PASSWORD", self.password.expose().to_owned()),
            ("OS_PROJECT_NAME", self.project.clone()),
            ("OS_USER_DOMAIN_NAME", "Default".to_owned()),
            ("OS_PROJECT_DOMAIN_NAME", "Default".to_owned()),
            ("OS_REGION_NAME", options.region.clone()),
            ("OS_INTERFACE", "public".to_owned()),
            ("OS_IDENTITY_API_VERSION", "3".to_owned()),
            ("OS_VOLUME_API_VERSION", "3".to_owned()),
            ("ST_AUTH", format!("{}/auth/v1.0", options.object_url)),
            ("ST_USER", v1_user),
            ("ST_KEY", self.password.expose().to_owned()),
            // Without it `swift` would speak version 3 to the address of version 1.
            ("ST_AUTH_VERSION", "1.0".to_owned()),
        ];
        let lines = settings
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(value)));
        format!(
            "# For {}: source this file. It holds a password.\n{}",
            self.username,
            lines.collect::<String>()
        )
    }
}

pub(crate) fn run(realm: &Realm, directory: &Path) -> Result<Bootstrap, BootstrapError> {
    let is_done = realm.directory.get::<StateRow>(DONE)?.is_some();
    if !is_done {
        make_foundations(realm)?;
    }
    let admin_roles = [ADMIN];
    let demo_roles = [MEMBER];
    let admin = person(realm, directory, "admin", &admin_roles, is_done)?;
    let demo = match realm.options.make_demo {
        true => person(realm, directory, "demo", &demo_roles, is_done)?,
        false => None,
    };
    follow_options(realm)?;
    if realm.directory.get::<StateRow>(RESELLER_DONE)?.is_none() {
        make_admin_reseller(realm)?;
        realm.directory.create(&StateRow {
            id: RESELLER_DONE.to_owned(),
        })?;
    }
    if !is_done {
        realm.directory.create(&StateRow {
            id: DONE.to_owned(),
        })?;
        tracing::info!("identity was set up: roles, projects, users and catalogue are there");
    }
    Ok(Bootstrap { admin, demo })
}

fn make_foundations(realm: &Realm) -> Result<(), BootstrapError> {
    if realm.directory.get::<DomainRow>(DEFAULT_DOMAIN)?.is_none() {
        realm.directory.create(&DomainRow {
            id: DEFAULT_DOMAIN.to_owned(),
            name: "Default".to_owned(),
            description: "The default domain".to_owned(),
            enabled: true,
        })?;
    }
    let reader = role(realm, READER, None)?;
    let member = role(realm, MEMBER, Some(reader))?;
    let manager = role(realm, "manager", Some(member))?;
    role(realm, ADMIN, Some(manager))?;
    role(realm, SERVICE, None)?;
    role(realm, RESELLER_ADMIN, None)?;
    project(realm, "service")?;
    Ok(())
}

/// The id of a role, made if it is not there.
fn role(realm: &Realm, name: &str, implies: Option<String>) -> Result<String, DirectoryError> {
    if let Some(found) = realm.directory.by_name::<RoleRow>(name)? {
        return Ok(found.record.id);
    }
    let id = realm.entropy.hex_id().to_string();
    let implies = implies.into_iter().collect();
    realm.directory.create(&RoleRow {
        id: id.clone(),
        name: name.to_owned(),
        description: None,
        implies,
    })?;
    Ok(id)
}

fn project(realm: &Realm, name: &str) -> Result<String, DirectoryError> {
    if let Some(found) = realm
        .directory
        .by_domain_and_name::<ProjectRow>(DEFAULT_DOMAIN, name)?
    {
        return Ok(found.record.id);
    }
    let id = realm.entropy.hex_id().to_string();
    realm.directory.create(&ProjectRow {
        id: id.clone(),
        name: name.to_owned(),
        domain_id: DEFAULT_DOMAIN.to_owned(),
        description: String::new(),
        enabled: true,
        tags: Vec::new(),
        extra: serde_json::Map::new(),
    })?;
    Ok(id)
}

/// A user with a project of the same name, and the file with its password.
fn person(
    realm: &Realm,
    directory: &Path,
    name: &str,
    roles: &[&str],
    is_done: bool,
) -> Result<Option<Credentials>, BootstrapError> {
    let path = directory.join(format!("{name}-credentials.json"));
    let user = realm
        .directory
        .by_domain_and_name::<UserRow>(DEFAULT_DOMAIN, name)?;
    let credentials = match (load(&path)?, &user) {
        (Some(credentials), _) => credentials,
        (None, None) if !is_done => generate(realm, &path, name)?,
        (None, _) => {
            tracing::info!(user = name, file = %path.display(), "no credentials file: the user's password is known to its owner alone");
            return Ok(None);
        }
    };
    if !is_done {
        let project_id = project(realm, name)?;
        let user_id = match user {
            Some(user) => user.record.id,
            None => make_user(realm, name, &project_id, &credentials.password)?,
        };
        for role_name in roles {
            let role_id = role(realm, role_name, None)?;
            let mut targets = vec![Target::Project(project_id.clone())];
            targets.extend((*role_name == ADMIN).then_some(Target::System));
            for target in targets {
                let (user_id, role_id) = (user_id.clone(), role_id.clone());
                realm.directory.grant(&GrantRow {
                    user_id,
                    target,
                    role_id,
                })?;
            }
        }
    }
    write_if_other(
        &directory.join(format!("{name}-openrc")),
        &credentials.openrc(&realm.options),
    )?;
    Ok(Some(credentials))
}

/// Lets the first admin reach every object account, from its own project.
fn make_admin_reseller(realm: &Realm) -> Result<(), DirectoryError> {
    let directory = &realm.directory;
    let user = directory.by_domain_and_name::<UserRow>(DEFAULT_DOMAIN, "admin")?;
    let project = directory.by_domain_and_name::<ProjectRow>(DEFAULT_DOMAIN, "admin")?;
    let role = |name| directory.by_name::<RoleRow>(name);
    let (Some(user), Some(project), Some(admin), Some(reseller)) =
        (user, project, role(ADMIN)?, role(RESELLER_ADMIN)?)
    else {
        return Ok(());
    };
    let grant = |role_id| GrantRow {
        user_id: user.record.id.clone(),
        target: Target::Project(project.record.id.clone()),
        role_id,
    };
    // Who is no admin any more could reach no account either.
    if directory.has_grant(&grant(admin.record.id))? {
        directory.grant(&grant(reseller.record.id))?;
    }
    Ok(())
}

fn make_user(
    realm: &Realm,
    name: &str,
    project_id: &str,
    password: &Secret,
) -> Result<String, BootstrapError> {
    let hash = realm.passwords.hash(password, realm.entropy.as_ref());
    let hash = hash.map_err(|error| BootstrapError::Store {
        detail: error.to_string(),
    })?;
    let id = realm.entropy.hex_id().to_string();
    realm.directory.create(&UserRow {
        id: id.clone(),
        name: name.to_owned(),
        domain_id: DEFAULT_DOMAIN.to_owned(),
        enabled: true,
        password_hash: Some(hash),
        default_project_id: Some(project_id.to_owned()),
        extra: serde_json::Map::new(),
    })?;
    Ok(id)
}

fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, BootstrapError> {
    use io::Read;
    let read = || {
        let mut text = Vec::new();
        std::fs::File::open(path)?
            .take(FILE_BYTES_MAX)
            .read_to_end(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BootstrapError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn load(path: &Path) -> Result<Option<Credentials>, BootstrapError> {
    let Some(text) = read_bounded(path)? else {
        return Ok(None);
    };
    let parsed: Result<CredentialsFile, _> = serde_json::from_slice(&text);
    let file = parsed.map_err(|error| BootstrapError::Malformed {
        path: path.to_owned(),
        line: error.line(),
    })?;
    let password = Secret::new(file.password);
    Ok(Some(Credentials {
        username: file.username,
        password,
        project: file.project,
    }))
}

fn generate(realm: &Realm, path: &Path, name: &str) -> Result<Credentials, BootstrapError> {
    let file = CredentialsFile {
        username: name.to_owned(),
        password: realm.entropy.alphanumeric(PASSWORD_CHARS),
        project: name.to_owned(),
    };
    let text = serde_json::to_vec_pretty(&file).expect("three texts are always JSON");
    if let Some(directory) = path.parent() {
        durable::create_dir_all(directory)?;
    }
    durable::replace(path, &text, Visibility::Owner)?;
    let password = Secret::new(file.password);
    Ok(Credentials {
        username: file.username,
        password,
        project: file.project,
    })
}

fn write_if_other(path: &Path, text: &str) -> Result<(), BootstrapError> {
    if read_bounded(path)?.as_deref() != Some(text.as_bytes()) {
        durable::replace(path, text.as_bytes(), Visibility::Owner)?;
    }
    Ok(())
}

/// The services of this system: type, name, and where the options say they are.
fn services(options: &Options) -> [(&'static str, &'static str, String); 4] {
    let Options {
        identity_url,
        volume_url,
        object_url,
        ..
    } = options;
    [
        ("identity", "keystone", format!("{identity_url}/v3")),
        ("block-storage", "cinder", format!("{volume_url}/v3")),
        (
            "volumev3",
            "cinderv3",
            format!("{volume_url}/v3/$(project_id)s"),
        ),
        (
            "object-store",
            "swift",
            format!("{object_url}/v1/AUTH_$(project_id)s"),
        ),
    ]
}

/// Makes endpoints that are missing at first start, and corrects those the configuration owns.
fn follow_options(realm: &Realm) -> Result<(), BootstrapError> {
    let region = &realm.options.region;
    if realm.directory.get::<RegionRow>(region)?.is_none() {
        let (id, description) = (region.clone(), String::new());
        realm.directory.create(&RegionRow {
            id,
            description,
            parent_region_id: None,
        })?;
    }
    let is_done = realm.directory.get::<StateRow>(DONE)?.is_some();
    let known = realm.directory.list::<ServiceRow>()?;
    let endpoints = realm.directory.list::<EndpointRow>()?;
    for (kind, name, url) in services(&realm.options) {
        let service_id = match known.iter().find(|service| service.kind == kind) {
            Some(service) => service.id.clone(),
            None if is_done => continue,
            None => make_service(realm, kind, name)?,
        };
        for interface in [Interface::Public, Interface::Internal, Interface::Admin] {
            let is_this = |endpoint: &&EndpointRow| {
                endpoint.service_id == service_id && endpoint.interface == interface
            };
            match endpoints.iter().find(is_this) {
                Some(endpoint) => correct(realm, endpoint, region, &url)?,
                None if is_done => {}
                None => realm.directory.create(&EndpointRow {
                    id: realm.entropy.hex_id().to_string(),
                    service_id: service_id.clone(),
                    interface,
                    region_id: Some(region.clone()),
                    url: url.clone(),
                    enabled: true,
                    is_configured: true,
                })?,
            }
        }
    }
    Ok(())
}

fn make_service(realm: &Realm, kind: &str, name: &str) -> Result<String, DirectoryError> {
    let id = realm.entropy.hex_id().to_string();
    realm.directory.create(&ServiceRow {
        id: id.clone(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        description: None,
        enabled: true,
    })?;
    Ok(id)
}

fn correct(
    realm: &Realm,
    endpoint: &EndpointRow,
    region: &str,
    url: &str,
) -> Result<(), DirectoryError> {
    let is_right = endpoint.url == url && endpoint.region_id.as_deref() == Some(region);
    if is_right || !endpoint.is_configured {
        return Ok(());
    }
    let Some(old) = realm.directory.get::<EndpointRow>(&endpoint.id)? else {
        return Ok(());
    };
    let region_id = Some(region.to_owned());
    realm.directory.update(
        &old,
        &EndpointRow {
            url: url.to_owned(),
            region_id,
            ..endpoint.clone()
        },
    )
}

//! The command line.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// The block command line: volumes of an Onggi (or any Cinder v3) service.
///
/// Who you are comes from the OS_* variables of an openrc file, never from the command line.
#[derive(Debug, Parser)]
#[command(name = "volctl", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The configuration file that names instances.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a volume.
    Create(Create),
    /// List volumes.
    List(List),
    /// Show a volume.
    Show(Named),
    /// Delete volumes.
    Delete(Delete),
    /// Give a volume to this host as a block device, or to a running QEMU guest.
    Attach(Attach),
    /// Take a volume away from this host or guest.
    Detach(Detach),
    /// Make a volume larger.
    Extend(Extend),
    /// Change a volume's name, description or metadata.
    Set(Set),
    /// Give a volume another name.
    Rename(Rename),
    /// Services.
    #[command(subcommand)]
    Service(Listing),
    /// Storage pools.
    #[command(subcommand)]
    Pool(Listing),
    /// Volume types.
    #[command(subcommand)]
    Type(Listing),
    /// Serve one attachment (started by `attach`).
    #[command(hide = true)]
    ServeAttachment,
}

/// Nouns that can only be listed.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Listing {
    /// List them.
    List,
}

/// A volume.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name or ID.
    pub(crate) volume: String,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Wait {
    /// Wait until it is done.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Seconds to wait at most.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

/// `create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The volume's name.
    pub(crate) name: String,
    /// Its size in GiB.
    #[arg(allow_negative_numbers = true)]
    pub(crate) size: String,
    /// Its type.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) volume_type: Option<String>,
    /// Its description.
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Where it should be.
    #[arg(long, value_name = "ZONE")]
    pub(crate) availability_zone: Option<String>,
    /// An item of metadata; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) metadata: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `list`
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The volumes of all projects (admins only).
    #[arg(long, alias = "all-tenants")]
    pub(crate) all_projects: bool,
    /// Only volumes of this name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Only volumes in this status.
    #[arg(long)]
    pub(crate) status: Option<String>,
}

/// `delete`
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Names or IDs.
    #[arg(required = true)]
    pub(crate) volumes: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `attach`
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// The volume's name or ID.
    pub(crate) volume: String,
    /// A running QEMU guest: a name from the configuration, or NAME=/path/to/qmp.sock.
    #[arg(long, value_name = "NAME[=SOCKET]")]
    pub(crate) instance: Option<String>,
    /// For reading only.
    #[arg(long)]
    pub(crate) read_only: bool,
}

/// `detach`
#[derive(Debug, Args)]
pub(crate) struct Detach {
    /// The volume's name or ID.
    pub(crate) volume: String,
    /// The QEMU guest it is attached to.
    #[arg(long, value_name = "NAME[=SOCKET]")]
    pub(crate) instance: Option<String>,
}

/// `extend`
#[derive(Debug, Args)]
pub(crate) struct Extend {
    /// The volume's name or ID.
    pub(crate) volume: String,
    /// The new size in GiB.
    #[arg(allow_negative_numbers = true)]
    pub(crate) size: String,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `set`
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The volume's name or ID.
    pub(crate) volume: String,
    /// The new name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The new description.
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// An item of metadata to add or change; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) metadata: Vec<(String, String)>,
}

/// `rename`
#[derive(Debug, Args)]
pub(crate) struct Rename {
    /// The volume's name or ID.
    pub(crate) volume: String,
    /// The new name.
    pub(crate) name: String,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "write KEY=VALUE".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_helpers_command_is_what_attach_starts() {
        let cli = Cli::try_parse_from(["volctl", crate::attach::HELPER_COMMAND]).unwrap();
        assert!(matches!(cli.command, Command::ServeAttachment));
    }

    #[test]
    fn a_negative_size_reaches_the_service() {
        let cli = Cli::try_parse_from(["volctl", "create", "v", "-1"]).unwrap();
        assert!(matches!(cli.command, Command::Create(Create { size, .. }) if size == "-1"));
        assert!(Cli::try_parse_from(["volctl", "create", "v"]).is_err());
        assert!(Cli::try_parse_from(["volctl", "create", "v", "1", "--metadata", "x"]).is_err());
    }
}

//! What may stand on the command line. Secrets may not: they come from the environment or an `openrc` file.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Containers and objects of an object store that speaks the Swift API.
///
/// Credentials come from ST_AUTH, ST_USER and ST_KEY, or from OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME
/// and so on, or OS_STORAGE_URL with OS_AUTH_TOKEN, or from the openrc file in the state directory.
#[derive(Debug, Parser)]
#[command(name = "objctl", version)]
pub(crate) struct Arguments {
    /// Print JSON where something is listed or shown.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container, or change the metadata of an account, container or object.
    Post(Post),
    /// Store files or directories in a container; `-` is standard input.
    Upload(Upload),
    /// Fetch objects.
    Download(Download),
    /// List containers, or the objects of a container.
    List(List),
    /// Show what is known about the account, a container or an object.
    Stat(Stat),
    /// Delete objects, a container with all that is in it, or everything.
    Delete(Delete),
    /// Print the storage URL and a token, for a shell to evaluate.
    Auth,
}

/// `post`
#[derive(Debug, Args)]
pub(crate) struct Post {
    /// The container; none for the account.
    pub(crate) container: Option<String>,
    /// The object.
    pub(crate) object: Option<String>,
    /// A metadata item, as NAME:VALUE; an empty value removes it.
    #[arg(short, long, value_name = "NAME:VALUE")]
    pub(crate) meta: Vec<String>,
    /// A header, as NAME:VALUE.
    #[arg(short = 'H', long, value_name = "NAME:VALUE")]
    pub(crate) header: Vec<String>,
    /// Who may read the container: .r:*,.rlistings for everyone.
    #[arg(short, long, value_name = "ACL", allow_hyphen_values = true)]
    pub(crate) read_acl: Option<String>,
    /// Who may write to the container.
    #[arg(short, long, value_name = "ACL")]
    pub(crate) write_acl: Option<String>,
}

/// `upload`
#[derive(Debug, Args)]
pub(crate) struct Upload {
    /// The container; it is made when it is not there.
    pub(crate) container: String,
    /// Files and directories; `-` reads standard input and needs --object-name.
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// The object's name; for a directory what its names begin with.
    #[arg(long, value_name = "NAME")]
    pub(crate) object_name: Option<String>,
    /// A header, as NAME:VALUE.
    #[arg(short = 'H', long, value_name = "NAME:VALUE")]
    pub(crate) header: Vec<String>,
    /// Uploads at a time.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) threads: u8,
}

/// `download`
#[derive(Debug, Args)]
pub(crate) struct Download {
    /// The container.
    #[arg(required_unless_present = "all")]
    pub(crate) container: Option<String>,
    /// Objects; none for all of the container.
    pub(crate) objects: Vec<String>,
    /// Every container, each in a directory of its name.
    #[arg(short, long, conflicts_with_all = ["container", "output"])]
    pub(crate) all: bool,
    /// Where to write the one object; `-` is standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The directory to write to.
    #[arg(short = 'D', long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Only objects whose names begin so.
    #[arg(short, long)]
    pub(crate) prefix: Option<String>,
    /// Downloads at a time.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) threads: u8,
}

/// `list`
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The container; none to list the containers.
    pub(crate) container: Option<String>,
    /// Sizes and dates too.
    #[arg(short, long)]
    pub(crate) long: bool,
    /// The same with sizes in K, M, G.
    #[arg(long)]
    pub(crate) lh: bool,
    /// Only names that begin so.
    #[arg(short, long)]
    pub(crate) prefix: Option<String>,
    /// Names that share a beginning up to this text become one line.
    #[arg(short, long)]
    pub(crate) delimiter: Option<String>,
}

/// `stat`
#[derive(Debug, Args)]
pub(crate) struct Stat {
    /// The container; none for the account.
    pub(crate) container: Option<String>,
    /// The object.
    pub(crate) object: Option<String>,
}

/// `delete`
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The container.
    #[arg(required_unless_present = "all")]
    pub(crate) container: Option<String>,
    /// Objects; none for the container with all that is in it.
    pub(crate) objects: Vec<String>,
    /// Every container and object of the account.
    #[arg(short, long, conflicts_with = "container")]
    pub(crate) all: bool,
    /// Only objects whose names begin so; the container stays.
    #[arg(short, long)]
    pub(crate) prefix: Option<String>,
    /// Deletions at a time.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) threads: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn verbs_read_as_swifts_do() {
        for line in [
            "objctl post c1",
            "objctl upload c1 a b --object-name n",
            "objctl list c1 --lh",
            "objctl list -p x -d / c1",
            "objctl download c1",
            "objctl download c1 o -o -",
            "objctl download --all",
            "objctl stat c1 o",
            "objctl delete c1 o",
            "objctl --json list",
            "objctl post -r .r:*,.rlistings c1",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "objctl",
            "objctl upload c1",
            "objctl download",
            "objctl list --key k",
            "objctl eat",
        ] {
            assert!(
                Arguments::try_parse_from(line.split(' ')).is_err(),
                "{line}"
            );
        }
    }
}

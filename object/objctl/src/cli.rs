//! What may stand on the command line. Secrets may not: they come from the environment or an `openrc` file.

use clap::{Args, Parser, Subcommand, ValueEnum};
use onggi_common_units::ByteCount;
use std::path::PathBuf;

/// Containers and objects of an object store that speaks the Swift API.
///
/// Credentials come from ST_AUTH, ST_USER and ST_KEY, or from OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME
/// and so on, or OS_STORAGE_URL with OS_AUTH_TOKEN, or from the openrc file in the state directory.
#[derive(Debug, Parser)]
#[command(name = "objctl", version)]
pub(crate) struct Arguments {
    /// Print JSON: a document where something is listed or shown, a line for each thing that is done.
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
    /// Make a directory's files and a container's objects the same, in one direction.
    Sync(Sync),
    /// Copy objects within the store.
    Copy(Copy),
    /// Print a URL that lets who has it do one thing to an object for a while.
    Tempurl(Tempurl),
    /// Show what the store can do.
    Capabilities,
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
    #[command(flatten)]
    pub(crate) segments: Segments,
    /// Leave out files whose objects have the same size and date.
    #[arg(short, long)]
    pub(crate) changed: bool,
    /// Leave out files whose objects have the same bytes.
    #[arg(long)]
    pub(crate) skip_identical: bool,
}

/// How large files are cut.
#[derive(Debug, Clone, Args)]
pub(crate) struct Segments {
    /// Files above this size are stored in segments of it, several at a time: an integer with B, KiB, MiB or GiB.
    /// Segments that an upload which broke off has stored already are not sent again. Files above 5 GiB are cut
    /// into 1 GiB when nothing is said.
    #[arg(short = 'S', long, value_name = "SIZE")]
    pub(crate) segment_size: Option<ByteCount>,
    /// The container of the segments; default: the container's name and _segments.
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) segment_container: Option<String>,
    /// Segments of one file at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) segment_threads: u8,
}

/// `sync`
#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// The directory.
    pub(crate) directory: PathBuf,
    /// The container; it is made when it is not there.
    pub(crate) container: String,
    /// What the objects' names begin with.
    #[arg(short, long, default_value = "")]
    pub(crate) prefix: String,
    /// From the container to the directory.
    #[arg(long)]
    pub(crate) download: bool,
    /// Delete on the one side what is not on the other.
    #[arg(long)]
    pub(crate) delete: bool,
    /// Say what would be done, and do nothing.
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Transfers at a time.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) threads: u8,
    #[command(flatten)]
    pub(crate) segments: Segments,
}

/// `copy`
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// The container.
    pub(crate) container: String,
    /// Objects.
    #[arg(required = true)]
    pub(crate) objects: Vec<String>,
    /// Where to: /container, or /container/object for one object. Default: itself, with new metadata.
    #[arg(short, long, value_name = "/CONTAINER[/OBJECT]")]
    pub(crate) destination: Option<String>,
    /// Leave the metadata behind.
    #[arg(short = 'M', long)]
    pub(crate) fresh_metadata: bool,
    /// A metadata item, as NAME:VALUE.
    #[arg(short, long, value_name = "NAME:VALUE")]
    pub(crate) meta: Vec<String>,
    /// A header, as NAME:VALUE.
    #[arg(short = 'H', long, value_name = "NAME:VALUE")]
    pub(crate) header: Vec<String>,
    /// Copies at a time.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) threads: u8,
}

/// `tempurl`. The key is the account's or container's own: it is asked for, and stands on no command line.
#[derive(Debug, Args)]
pub(crate) struct Tempurl {
    /// GET, HEAD, PUT, POST or DELETE.
    pub(crate) method: String,
    /// For how many seconds; with --absolute the second it ends at.
    pub(crate) seconds: u64,
    /// The container.
    pub(crate) container: String,
    /// The object, or with --prefix-based what names begin with.
    pub(crate) object: String,
    /// SECONDS is a moment, in seconds since 1970.
    #[arg(long)]
    pub(crate) absolute: bool,
    /// For all objects whose names begin so.
    #[arg(long)]
    pub(crate) prefix_based: bool,
    /// Only from this address, or network as ADDRESS/BITS.
    #[arg(long, value_name = "RANGE")]
    pub(crate) ip_range: Option<String>,
    /// The hash of the signature.
    #[arg(long, value_enum, default_value_t = Digest::Sha256)]
    pub(crate) digest: Digest,
    /// The container's key instead of the account's.
    #[arg(long)]
    pub(crate) container_key: bool,
}

/// Hashes of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Digest {
    Sha1,
    Sha256,
    Sha512,
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
            "objctl upload c1 a -S 64MiB --segment-threads 8 --changed",
            "objctl sync dir c1 --delete -n",
            "objctl copy c1 a b -d /c2",
            "objctl tempurl GET 60 c1 a --ip-range 10.0.0.0/8",
            "objctl capabilities --json",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "objctl",
            "objctl upload c1",
            "objctl download",
            "objctl list --key k",
            "objctl eat",
            "objctl upload c1 a -S 64X",
            "objctl copy c1",
        ] {
            assert!(
                Arguments::try_parse_from(line.split(' ')).is_err(),
                "{line}"
            );
        }
    }
}

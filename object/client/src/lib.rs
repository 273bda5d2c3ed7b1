//! A storage node called over HTTP or in this process.
//!
//! A node in the same process is called directly, others over links and, for what is long, over HTTP ([`transport`]).
//! [`NodeClient`] is the seam: one signed request, one answer. [`Nodes`] gives it types: a method for each thing a node
//! does, with an answer that tells apart what callers tell apart.

pub mod answer;
pub mod call;
pub mod connect;
pub mod http_client;
pub mod limiter;
mod link;
pub mod nodes;
mod pool;
pub mod put_stream;
pub mod transport;

pub use answer::{ContainerAnswer, GetAnswer, InfoAnswer, ListAnswer, WriteAnswer};
pub use call::{
    Answer, AnswerFuture, Body, BodyError, Call, CallBody, CallError, NodeClient, Piece,
};
pub use connect::Connect;
pub use http_client::{HttpClient, Timeouts};
pub use limiter::Limiter;
pub use nodes::Nodes;
pub use put_stream::{HashedPut, PutStream};
pub use transport::{LocalNodes, Transport};

//! How connections to nodes are opened: over TCP, or in this process in simulation.

use core::pin::Pin;
use onggi_common_host::nearby;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The bytes of one connection, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection under way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// What opens connections.
pub trait Connect: core::fmt::Debug + Send + Sync + 'static {
    /// Connects to a node's address, `host:port`. The caller limits how long it may take.
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a>;
}

/// Connections over TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Connect for Tcp {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            nearby::unpaced(&stream);
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

//! The end of a connection whose client may still be sending, because it was answered before it had sent all.
//!
//! A socket that is closed with input that nobody has read resets the connection, and a reset overtakes the answer: the
//! client would see that it broke, and not why. So only the own half is closed first, and what comes is read and dropped
//! until the client has closed its half too.

use core::time::Duration;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a client may go on sending what nobody wants.
const LINGER_MAX: Duration = Duration::from_secs(30);
/// How long it may leave the connection open without a byte.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// Bytes dropped at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Says that nothing more will be sent, and drops what comes until the client has said so too, or a limit is reached.
///
/// # Errors
/// When the client is gone.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    let end = Instant::now() + LINGER_MAX;
    let mut chunk = vec![0; CHUNK_BYTES];
    let dropping = async {
        stream.shutdown().await?;
        while let Ok(count) = timeout(QUIET_MAX, stream.read(&mut chunk)).await {
            if count? == 0 {
                break;
            }
        }
        Ok(())
    };
    timeout_at(end, dropping).await.unwrap_or(Ok(()))
}

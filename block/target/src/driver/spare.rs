//! Reading a socket into a buffer's spare room: the one place of this crate that needs `unsafe`.
#![expect(
    unsafe_code,
    reason = "bytes has no safe way to say that spare room was filled by the kernel"
)]

use bytes::{BufMut, BytesMut};
use rustix::net::RecvFlags;
use std::io;
use std::os::fd::AsFd;

/// Receives what is there, at most the buffer's spare room; the number of bytes, zero at the end of the stream.
pub(super) fn receive(socket: impl AsFd, buffer: &mut BytesMut) -> io::Result<usize> {
    let (filled, _) = rustix::net::recv(socket, buffer.spare_capacity_mut(), RecvFlags::empty())?.0;
    let count = filled.len();
    // SAFETY: `recv` has initialised exactly the first `count` bytes of the spare room, and `filled` shows that it is
    // no more than there is.
    unsafe { buffer.advance_mut(count) };
    Ok(count)
}

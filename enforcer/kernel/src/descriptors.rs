//! Descriptors that come from outside the program: from a listener, with a message of another
//! process, or from the program that ran in this process before. Each gets its owner here.

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, RecvMsg, SockFlag, UnixAddr, accept4, recv,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Accepts a connection that waits at the listener. Its calls do not block.
///
/// # Errors
/// `EAGAIN` if none waits.
pub fn accept(listener: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let number = accept4(listener.as_fd().as_raw_fd(), flags)?;
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends one message, with a descriptor or without.
///
/// # Errors
/// `EPIPE` if the other side is gone.
pub fn send(
    socket: &impl AsFd,
    message: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let descriptors: Vec<RawFd> = descriptor.iter().map(|one| one.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&descriptors)];
    let control: &[_] = if descriptors.is_empty() {
        &[]
    } else {
        &control
    };
    sendmsg::<UnixAddr>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(message)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives one message of at most `largest` bytes, and the descriptor that came with it. The message is
/// empty if the other side is gone.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(socket: &impl AsFd, largest: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let number = socket.as_fd().as_raw_fd();
    // With MSG_TRUNC the answer is the whole length, whatever the buffer holds (recv(2)).
    let length = recv(number, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
    let mut buffer = vec![0; length.min(largest)];
    let mut space = cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let received = recvmsg::<UnixAddr>(
        number,
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut descriptors = of_message(&received)?;
    let length = received.bytes;
    buffer.truncate(length);
    Ok((buffer, descriptors.pop()))
}

/// Takes over the descriptors that came with a message. It is called once for each message.
pub(crate) fn of_message(received: &RecvMsg<'_, '_, UnixAddr>) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: the kernel has just made these descriptors for the caller.
            let owned = numbers
                .into_iter()
                .map(|number| unsafe { OwnedFd::from_raw_fd(number) });
            descriptors.extend(owned);
        }
    }
    Ok(descriptors)
}

/// Takes over a descriptor that the program before this one left open in this process. The
/// caller takes each number once, before it opens any descriptor of its own.
///
/// # Errors
/// `EBADF` if there is no such descriptor.
pub fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    set_close_on_exec(number, true)?;
    // SAFETY: the descriptor is open, and by the contract above it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sets whether the next program of this process inherits the descriptor.
///
/// # Errors
/// `EBADF` if there is no such descriptor.
pub fn set_close_on_exec(number: RawFd, on: bool) -> io::Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: sets a flag of a descriptor of this process.
    match unsafe { libc::fcntl(number, libc::F_SETFD, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

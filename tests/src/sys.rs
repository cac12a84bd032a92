//! The few system calls that the standard library has no safe name for.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Moves the calling thread into the network namespace that `namespace` is an open file of.
pub(crate) fn enter_network_namespace(namespace: &File) -> io::Result<()> {
    // SAFETY: `setns` reads no memory of ours; the descriptor is open for as long as `namespace` is borrowed.
    let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends `signal` to the process group `group` (positive), or to one process if `group` is negative.
pub(crate) fn signal_group(group: i32, signal: i32) -> io::Result<()> {
    // SAFETY: `kill` reads no memory of ours.
    let result = unsafe { libc::kill(-group, signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the close of `socket` a reset.
pub(crate) fn reset_on_close(socket: &TcpStream) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = libc::socklen_t::try_from(size_of::<libc::linger>()).map_err(io::Error::other)?;
    // SAFETY: the pointer is to `linger`, alive during the call, and `len` is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Names the calling thread for [`interrupt`].
#[cfg(test)]
pub(crate) fn this_thread() -> libc::pthread_t {
    // SAFETY: `pthread_self` has no arguments and always succeeds.
    unsafe { libc::pthread_self() }
}

/// Gives `signal` a handler that does nothing and asks for interrupted calls to be restarted.
#[cfg(test)]
pub(crate) fn ignore_by_handler(signal: i32) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all bytes zero are a valid `sigaction`: the default action and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` lives during the call, its handler does nothing, and no old action is asked for.
    let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends `signal` to one thread of this process, which must not have been joined yet.
#[cfg(test)]
pub(crate) fn interrupt(thread: libc::pthread_t, signal: i32) -> io::Result<()> {
    // SAFETY: the caller keeps the thread unjoined, so that its name is valid.
    let result = unsafe { libc::pthread_kill(thread, signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

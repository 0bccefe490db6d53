//! The kernel's error numbers.

use core::fmt;

/// Why the kernel refused: a positive `errno`.
///
/// Displayed by name and number: `ENOSPC (28)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal, $meaning:literal;)*) => {
        impl Errno {
            $(#[doc = $meaning] pub const $name: Self = Self($number);)*

            /// Its name in `errno.h`, where it is one that netlink answers with.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What it means, in words.
            pub const fn meaning(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($meaning),)*
                    _ => None,
                }
            }
        }
    };
}

// Numbers of asm-generic/errno-base.h and asm-generic/errno.h, which x86, Arm, RISC-V and POWER share.
errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such object";
    EINTR = 4, "interrupted";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "too long";
    EBADF = 9, "bad file descriptor";
    EAGAIN = 11, "try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "device or resource busy";
    EEXIST = 17, "exists already";
    EXDEV = 18, "cross-device";
    ENODEV = 19, "no such device";
    EINVAL = 22, "invalid argument";
    EFBIG = 27, "too large";
    ENOSPC = 28, "no space left";
    EROFS = 30, "read-only";
    EPIPE = 32, "broken pipe";
    ERANGE = 34, "out of range";
    ENOSYS = 38, "not implemented";
    ENOMSG = 42, "no such message";
    ENODATA = 61, "no data";
    ETIME = 62, "timer expired";
    EPROTO = 71, "protocol error";
    EBADMSG = 74, "bad message";
    EOVERFLOW = 75, "value too large";
    EMSGSIZE = 90, "message too long";
    EPROTONOSUPPORT = 93, "protocol not supported";
    EOPNOTSUPP = 95, "operation not supported";
    EAFNOSUPPORT = 97, "address family not supported";
    EADDRINUSE = 98, "address in use";
    ENETDOWN = 100, "network is down";
    ENETUNREACH = 101, "network unreachable";
    ECONNRESET = 104, "connection reset";
    ENOBUFS = 105, "no buffer space";
    ENOTCONN = 107, "not connected";
    ETIMEDOUT = 110, "timed out";
    ECONNREFUSED = 111, "connection refused";
    EHOSTUNREACH = 113, "host unreachable";
    EALREADY = 114, "already in progress";
    ESTALE = 116, "stale";
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "errno {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn is_shown_by_name_and_number() {
        assert_eq!(Errno::ENOSPC.to_string(), "ENOSPC (28)");
        assert_eq!(Errno(95).to_string(), "EOPNOTSUPP (95)");
        assert_eq!(Errno(4711).to_string(), "errno 4711");
    }
}

//! Identifiers that processes give out themselves.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! random_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(u128);

        impl $type {
            /// A fresh random one.
            ///
            /// # Errors
            /// The operating system has no randomness to give.
            pub fn random() -> Result<Self, getrandom::Error> {
                let mut bytes = [0_u8; 16];
                getrandom::fill(&mut bytes)?;
                Ok(Self(u128::from_be_bytes(bytes)))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<String> for $type {
            type Error = &'static str;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                if !hex {
                    return Err(concat!(stringify!($type), " is 32 hexadecimal digits"));
                }
                u128::from_str_radix(&text, 16).map(Self).map_err(|_| stringify!($type))
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.to_string()
            }
        }
    };
}

random_id! {
    /// Random at an agent's start and kept over reconnects: the same instance logging in again is that agent coming back.
    InstanceId
}

random_id! {
    /// One connected agent, for as long as at least one of its lanes lives.
    TunnelId
}

macro_rules! counted_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(u64);

        impl $type {
            /// The next one of this process.
            pub fn next() -> Self {
                static LAST: AtomicU64 = AtomicU64::new(0);
                Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counted_id! {
    /// One multiplexed connection; unique per process, so that a late goodbye never removes a newer session.
    SessionId
}

counted_id! {
    /// One lane of a tunnel as the server numbers it.
    LaneId
}

/// Names one public request in logs, headers and error answers on both sides: 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

impl RequestId {
    /// The next one: a counter spread by a start value that is random for each process, so that two servers or two
    /// runs do not repeat each other, and a request costs no system call.
    pub fn next() -> Self {
        static STATE: AtomicU64 = AtomicU64::new(0);
        static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
        let seed = SEED.get_or_init(|| getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())));
        let count = STATE.fetch_add(1, Ordering::Relaxed);
        // An odd multiplier walks through all 2^64 values before it repeats one (Weyl sequence).
        Self(seed.wrapping_add(count.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for RequestId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let is_id = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let read = is_id.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        read.map(Self).ok_or("the id of a request is 16 hexadecimal digits")
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_survive_the_wire() {
        let (a, b) = (InstanceId::random().unwrap(), InstanceId::random().unwrap());
        assert_ne!(a, b);
        let wire = serde_json::to_string(&a).unwrap();
        assert_eq!(serde_json::from_str::<InstanceId>(&wire).unwrap(), a);
        assert!(serde_json::from_str::<InstanceId>("\"+0000000000000000000000000000000\"").is_err());
        assert_ne!(SessionId::next(), SessionId::next());
        let (one, other) = (RequestId::next(), RequestId::next());
        assert_ne!(one, other);
        assert_eq!(one.to_string().parse(), Ok(one));
        for bad in ["", "+00000000000000a", "000000000000000A", "00000000000000000"] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad}");
        }
    }
}

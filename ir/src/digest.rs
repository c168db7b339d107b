//! Digests and ids, one type per kind of thing named, so that one cannot stand for another.
//!
//! The sha256 family is what OCI sees (image-spec, descriptor.md, "Digests"); the blake3 family
//! never leaves rgraph.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DigestError {
    /// The part before `:` is not the algorithm this kind of digest uses.
    Algorithm {
        /// The algorithm that was wanted.
        want: &'static str,
        /// What was found, cut at 32 bytes.
        got: String,
    },
    /// Not exactly 64 hex digits in lower case.
    Hex,
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Algorithm { want, got } => {
                write!(f, "digest algorithm must be `{want}`, found `{got}`")
            }
            Self::Hex => f.write_str("a digest has 64 hex digits in lower case"),
        }
    }
}

impl std::error::Error for DigestError {}

fn parse(text: &str, alg: &'static str) -> Result<[u8; 32], DigestError> {
    let Some(hex) = text.strip_prefix(alg).and_then(|r| r.strip_prefix(':')) else {
        let got = text.split(':').next().unwrap_or("");
        return Err(DigestError::Algorithm { want: alg, got: got.chars().take(32).collect() });
    };
    from_hex(hex).ok_or(DigestError::Hex)
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let bytes = hex.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let nibble = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0u8; 32];
    for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *slot = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

/// 64 hex digits in lower case.
pub(crate) fn to_hex(bytes: &[u8; 32]) -> String {
    Text::<64>::new("", bytes).as_str().to_owned()
}

/// A digest written out, without the heap: a record of a build holds hundreds.
struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// `prefix` and 64 hex digits in lower case, `N` bytes together.
    fn new(prefix: &str, bytes: &[u8; 32]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = [0; N];
        let (head, hex) = out.split_at_mut(prefix.len());
        head.copy_from_slice(prefix.as_bytes());
        for (pair, b) in hex.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(b >> 4)];
            pair[1] = DIGITS[usize::from(b & 15)];
        }
        Self(out)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a name and hex digits are ASCII")
    }
}

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident, $alg:literal, $hash:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The algorithm's name as it stands before the colon.
            pub const ALGORITHM: &'static str = $alg;

            /// Wraps 32 raw bytes that the caller computed with [`Self::ALGORITHM`].
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The digest of `data`.
            pub fn of(data: &[u8]) -> Self {
                Self($hash(data))
            }

            /// The raw 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// 64 hex digits, without the algorithm: a safe file name.
            pub fn hex(&self) -> String {
                to_hex(&self.0)
            }

            fn text(&self) -> Text<{ $alg.len() + 65 }> {
                Text::new(concat!($alg, ":"), &self.0)
            }

            /// The first 12 hex digits, as Docker prints ids.
            pub fn short(&self) -> String {
                self.hex()[..12].to_owned()
            }

            /// Reads 64 hex digits without an algorithm.
            pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
                from_hex(hex).map(Self).ok_or(DigestError::Hex)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.text().as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), &self.hex()[..12])
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                parse(text, $alg).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.text().as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

fn sha256(data: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(data).into()
}

fn blake3(data: &[u8]) -> [u8; 32] {
    *blake3::hash(data).as_bytes()
}

digest_type!(
    /// Names the bytes of a blob as they lie in a registry or layout (a compressed layer, a config).
    BlobDigest, "sha256", sha256
);
digest_type!(
    /// Names the uncompressed tar of a layer (image-spec, config.md, "Layer DiffID").
    DiffId, "sha256", sha256
);
digest_type!(
    /// Names a stack of layers (image-spec, config.md, "Layer ChainID").
    ChainId, "sha256", sha256
);
digest_type!(
    /// Names a manifest or an index by its bytes as received.
    ManifestDigest, "sha256", sha256
);
digest_type!(
    /// Names an image config; Docker's image id.
    ConfigDigest, "sha256", sha256
);
digest_type!(
    /// Names a result across runs and machines.
    CacheKey, "blake3", blake3
);
digest_type!(
    /// Names the selected part of a tree by its content: names, types, modes, owners, xattrs, link
    /// targets and bytes, without times.
    TreeDigest, "blake3", blake3
);

macro_rules! same_bytes {
    ($from:ident, $to:ident) => {
        impl From<$from> for $to {
            fn from(d: $from) -> Self {
                Self::from_bytes(*d.as_bytes())
            }
        }
    };
}
same_bytes!(ManifestDigest, BlobDigest);
same_bytes!(ConfigDigest, BlobDigest);
same_bytes!(BlobDigest, ManifestDigest);
same_bytes!(BlobDigest, ConfigDigest);
same_bytes!(DiffId, BlobDigest);

impl ChainId {
    /// The chain ID of the bottom layer.
    pub fn base(diff: DiffId) -> Self {
        Self(*diff.as_bytes())
    }

    /// The chain ID of `diff` on top of this stack: `sha256(chain + " " + diff)`.
    pub fn with(self, diff: DiffId) -> Self {
        Self::of(format!("{self} {diff}").as_bytes())
    }
}

/// Names a file system state in one store. Only the store that gave it can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_wrong_forms_are_refused() {
        let d = BlobDigest::of(b"x");
        assert_eq!(d.to_string().parse::<BlobDigest>().unwrap(), d);
        let hex = d.hex();
        for bad in [
            String::new(),
            hex.clone(),
            format!("sha512:{hex}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{hex}0"),
            format!("sha256:../{}", &hex[3..]),
        ] {
            assert!(bad.parse::<BlobDigest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn chain_id_follows_the_spec() {
        let a = DiffId::of(b"a");
        let b = DiffId::of(b"b");
        let want = ChainId::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::base(a).with(b), want);
        assert_eq!(ChainId::base(a).to_string(), a.to_string());
    }
}

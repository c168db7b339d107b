//! Private keys in OpenSSH's own form (PROTOCOL.key of OpenSSH), and their signatures (RFC 4253, 5656,
//! 8332, 8709). `ring` signs; the form is a few strings, less than a crate for it would bring along.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
/// What the bytes of a key begin with.
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// A client wants RSA with SHA-256 (draft-miller-ssh-agent, section 3.6.1).
const RSA_SHA2_256: u32 = 2;
/// A client wants RSA with SHA-512.
const RSA_SHA2_512: u32 = 4;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is encrypted.
    #[error("the key is protected by a passphrase: add it to an agent (`ssh-add`) and give that")]
    Encrypted,
    /// Not OpenSSH's form.
    #[error(
        "this is no private key in OpenSSH's form; `ssh-keygen -p -f KEY` turns older forms into it"
    )]
    Form,
    /// A kind that is not signed with here.
    #[error("keys of the kind {0} are not supported: use an agent for it")]
    Kind(String),
    /// Its parts do not belong together.
    #[error("the key is damaged: {0}")]
    Damaged(String),
}

/// A key that signs. Says nothing of itself in debug output.
pub struct SigningKey {
    /// The public key as it travels.
    public: Vec<u8>,
    comment: String,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(&'static str, EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.comment)
    }
}

impl SigningKey {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read(text: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(text).map_err(|_| KeyError::Form)?;
        // The forms of OpenSSL say so in their text.
        if text.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let body = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
        let body: String = body.ok_or(KeyError::Form)?.0.split_whitespace().collect();
        let bytes = STANDARD.decode(body).map_err(|_| KeyError::Form)?;
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(KeyError::Form)?;
        let mut next = || take(&mut rest).ok_or(KeyError::Form);
        let (cipher, _kdf, _options) = (next()?, next()?, next()?);
        if cipher != b"none" {
            return Err(KeyError::Encrypted);
        }
        let Some((&[0, 0, 0, 1], mut rest)) = rest.split_first_chunk() else {
            return Err(KeyError::Form);
        };
        let public = take(&mut rest).ok_or(KeyError::Form)?.to_vec();
        let private = take(&mut rest).ok_or(KeyError::Form)?;
        let Some((check, mut private)) = private.split_first_chunk::<8>() else {
            return Err(KeyError::Form);
        };
        if check[..4] != check[4..] {
            return Err(KeyError::Damaged("its two check numbers differ".to_owned()));
        }
        let pair = pair(&mut private)?;
        let comment = take(&mut private).ok_or(KeyError::Form)?;
        Ok(Self { public, comment: String::from_utf8_lossy(comment).into_owned(), pair })
    }

    /// The public key as it travels (RFC 4253, section 6.6).
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// What its owner calls it.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Signs; gives the signature as it travels. `None`: not in the way that `flags` ask for, or the
    /// key cannot sign this.
    pub fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let rng = SystemRandom::new();
        let (name, bytes) = match &self.pair {
            Pair::Ed25519(pair) => ("ssh-ed25519", pair.sign(data).as_ref().to_vec()),
            Pair::Ecdsa(name, pair) => {
                let both = pair.sign(&rng, data).ok()?;
                let (r, s) = both.as_ref().split_at(both.as_ref().len() / 2);
                (*name, [integer(r), integer(s)].concat())
            }
            Pair::Rsa(pair) => {
                let (name, how) = match flags {
                    f if f & RSA_SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    f if f & RSA_SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    // SHA-1, which servers do not take any more.
                    _ => return None,
                };
                let mut bytes = vec![0; pair.public().modulus_len()];
                pair.sign(how, &rng, data, &mut bytes).ok()?;
                (name, bytes)
            }
        };
        Some([string(name.as_bytes()), string(&bytes)].concat())
    }
}

/// The key pair at the front of the private part.
fn pair(rest: &mut &[u8]) -> Result<Pair, KeyError> {
    let damaged = |e: ring::error::KeyRejected| KeyError::Damaged(e.to_string());
    let mut next = || take(rest).ok_or(KeyError::Form);
    let kind = next()?;
    match kind {
        b"ssh-ed25519" => {
            let (public, both) = (next()?, next()?);
            let seed = both.get(..32).ok_or(KeyError::Form)?;
            let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public);
            Ok(Pair::Ed25519(pair.map_err(damaged)?))
        }
        b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" => {
            let (name, how, length) = match kind.ends_with(b"256") {
                true => ("ecdsa-sha2-nistp256", &ECDSA_P256_SHA256_FIXED_SIGNING, 32),
                false => ("ecdsa-sha2-nistp384", &ECDSA_P384_SHA384_FIXED_SIGNING, 48),
            };
            let (_curve, public, number) = (next()?, next()?, without_zeros(next()?));
            let Some(zeros) = usize::checked_sub(length, number.len()) else {
                return Err(KeyError::Form);
            };
            let private = [&vec![0; zeros][..], number].concat();
            let rng = SystemRandom::new();
            EcdsaKeyPair::from_private_key_and_public_key(how, &private, public, &rng)
                .map(|pair| Pair::Ecdsa(name, pair))
                .map_err(damaged)
        }
        b"ssh-rsa" => {
            let (n, e, d) = (number(next()?)?, number(next()?)?, number(next()?)?);
            let (inverse, p, q) = (number(next()?)?, number(next()?)?, number(next()?)?);
            let parts = KeyPairComponents {
                public_key: PublicKeyComponents { n, e },
                d,
                // OpenSSH leaves out what follows from the others.
                dP: &modulo(d, &less_one(p))[..],
                dQ: &modulo(d, &less_one(q))[..],
                qInv: inverse,
                p,
                q,
            };
            Ok(Pair::Rsa(Box::new(RsaKeyPair::from_components(&parts).map_err(damaged)?)))
        }
        other => Err(KeyError::Kind(String::from_utf8_lossy(other).into_owned())),
    }
}

/// The digits of an `mpint` that is not negative.
fn number(bytes: &[u8]) -> Result<&[u8], KeyError> {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => {
            Err(KeyError::Damaged("a number is negative".to_owned()))
        }
        _ => Ok(without_zeros(bytes)),
    }
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    &bytes[start..]
}

/// One less than an odd number, big-endian.
fn less_one(n: &[u8]) -> Vec<u8> {
    let mut out = n.to_vec();
    if let Some(last) = out.last_mut() {
        *last &= !1;
    }
    out
}

/// The rest of a division of two numbers, big-endian, bit by bit: it is done once for a key.
fn modulo(n: &[u8], by: &[u8]) -> Vec<u8> {
    // One byte more than the divisor, for what is shifted out.
    let by: Vec<u8> = std::iter::once(0).chain(by.iter().copied()).collect();
    let mut rest = vec![0u8; by.len()];
    if by.iter().all(|b| *b == 0) {
        return rest;
    }
    for bit in n.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if rest >= by {
            let mut borrow = false;
            for (a, b) in rest.iter_mut().zip(&by).rev() {
                let (less, under) = a.overflowing_sub(*b);
                let (less, again) = less.overflowing_sub(u8::from(borrow));
                (*a, borrow) = (less, under || again);
            }
        }
    }
    without_zeros(&rest).to_vec()
}

/// `string` of RFC 4251, section 5.
pub(super) fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Takes a `string` of RFC 4251 from the front.
pub(super) fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (value, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(value)
}

/// `mpint` of RFC 4251, section 5, of a number that is not negative.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let bytes = without_zeros(bytes);
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => string(&[&[0], bytes].concat()),
        _ => string(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests() {
        for (n, by) in [(0u64, 7u64), (6, 7), (7, 7), (u64::MAX, 10), (1 << 40, 255), (9, 1 << 60)]
        {
            let rest = modulo(&n.to_be_bytes(), &by.to_be_bytes());
            let got = rest.iter().fold(0u64, |all, b| all << 8 | u64::from(*b));
            assert_eq!(got, n % by, "{n} {by}");
        }
        assert_eq!(less_one(&[1, 7]), [1, 6]);
        assert_eq!(integer(&[0, 0x80]), [0, 0, 0, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0]), [0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_key() {
        for (text, part) in [
            (&b"\xff"[..], "no private key"),
            (b"ssh-ed25519 AAAA", "no private key"),
            (
                b"-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----\n",
                "ssh-keygen -p",
            ),
            (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nx", "passphrase"),
            (
                b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
                "no private key",
            ),
        ] {
            let e = SigningKey::read(text).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }
}

//! Signed cache entries: ed25519 over what an entry says, so that whoever may write to a cache
//! cannot choose what a key stands for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rgraph_ir::request::{PublicKey, Secret};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};

/// How a signature is written.
const PREFIX: &str = "ed25519:";
/// What stands before the seed of a PKCS#8 private key (RFC 8410).
const PRIVATE: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What stands before the key of a SubjectPublicKeyInfo (RFC 8410).
const PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Reads a public key: PEM as OpenSSL writes it, or base64 of it or of the 32 bytes alone.
pub fn public_key(text: &str) -> Option<PublicKey> {
    let bytes = base64_of(text, "PUBLIC KEY")?;
    let key = bytes.strip_prefix(&PUBLIC).unwrap_or(&bytes);
    key.try_into().ok().map(PublicKey)
}

/// Reads the seed of a private key: PKCS#8 in PEM, as OpenSSL writes it.
pub fn signing_seed(text: &str) -> Option<Vec<u8>> {
    if !text.contains("BEGIN PRIVATE KEY") {
        return None;
    }
    let bytes = base64_of(text, "PRIVATE KEY")?;
    let seed = bytes.strip_prefix(&PRIVATE)?;
    (seed.len() == 32).then(|| seed.to_vec())
}

fn base64_of(text: &str, name: &str) -> Option<Vec<u8>> {
    let body = match text.split_once(&format!("-----BEGIN {name}-----")) {
        Some((_, rest)) => rest.split_once(&format!("-----END {name}-----"))?.0,
        None => text,
    };
    let body: String = body.split_whitespace().collect();
    STANDARD.decode(body).ok()
}

/// Signs entries.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// A signer with the seed that [`signing_seed`] gave.
    ///
    /// # Panics
    /// The seed has not 32 bytes. Nothing may go unsigned in silence.
    pub fn new(seed: &Secret) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose());
        Self(pair.expect("a seed was read as 32 bytes"))
    }

    /// The signature of a message.
    pub fn sign(&self, message: &[u8]) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.0.sign(message)))
    }
}

/// Whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct Trust(Vec<PublicKey>);

impl Trust {
    /// With no keys everything is taken, signed or not.
    pub fn new(keys: &[PublicKey]) -> Self {
        Self(keys.to_vec())
    }

    /// Whether everything is taken.
    pub fn is_blind(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a message counts.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, message: &[u8], signature: Option<&str>) -> Result<(), &'static str> {
        if self.0.is_empty() {
            return Ok(());
        }
        let text = signature.ok_or("it is not signed")?;
        let bytes = text.strip_prefix(PREFIX).and_then(|t| STANDARD.decode(t).ok());
        let bytes = bytes.ok_or("its signature is none")?;
        let good = |k: &PublicKey| UnparsedPublicKey::new(&ED25519, k.0).verify(message, &bytes);
        match self.0.iter().any(|k| good(k).is_ok()) {
            true => Ok(()),
            false => Err("it is not signed with a key that is trusted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 8032, section 7.1, test 1.
    const SEED: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";
    const KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    #[test]
    fn only_the_key_s_own_words_count() {
        let signer = Signer::new(&Secret::new(signing_seed(SEED).unwrap()));
        let key = public_key(KEY).unwrap();
        let other = PublicKey([7; 32]);
        let signed = signer.sign(b"m");
        assert!(Trust::new(&[]).check(b"m", None).is_ok());
        assert!(Trust::new(&[other, key]).check(b"m", Some(&signed)).is_ok());
        for (keys, message, signature) in [
            (vec![key], &b"m"[..], None),
            (vec![key], b"n", Some(signed.as_str())),
            (vec![other], b"m", Some(&signed)),
            (vec![key], b"m", Some("ed25519:AAAA")),
            (vec![key], b"m", Some(&signed[8..])),
            (vec![key], b"m", Some("")),
        ] {
            assert!(Trust::new(&keys).check(message, signature).is_err(), "{signature:?}");
        }
    }

    #[test]
    fn keys_in_their_forms() {
        let spki = STANDARD.encode([&PUBLIC[..], &public_key(KEY).unwrap().0].concat());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{spki}\n-----END PUBLIC KEY-----\n");
        for text in [KEY, &spki, &pem, &format!(" {KEY}\n")] {
            assert_eq!(public_key(text), public_key(KEY), "{text}");
        }
        for text in ["", "AAAA", SEED, "./file", &pem[..60]] {
            assert_eq!(public_key(text), None, "{text}");
        }
        for text in ["", KEY, &pem, &SEED.replace("MC4C", "MC4D")] {
            assert_eq!(signing_seed(text), None, "{text}");
        }
    }
}

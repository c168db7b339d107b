//! Names that nobody else has, and hashes of passwords.

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use sha1::{Digest, Sha1};

use super::encode::hex;
use super::strings::text;
use super::{Row, random};
use crate::budget::{Error, Result};
use crate::value::cut;

pub(super) const TABLE: &[Row] = &[
    ("bcrypt", 1, 2, |a, cx| {
        let password = a[0].to_text()?;
        let cost = match a.get(1).map(|c| c.to_number()).transpose()? {
            None => DEFAULT_COST,
            Some(n) => match n.whole().map(u32::try_from) {
                // As it is elsewhere: too little is not taken.
                Some(Ok(0..4) | Err(_)) if n.float() < 4.0 => DEFAULT_COST,
                Some(Ok(cost @ 4..=31)) => cost,
                _ => return Err(Error::new(format!("the cost is a number up to 31, not {n}"))),
            },
        };
        if password.len() > LONGEST {
            return Err(Error::new(format!("a password is at most {LONGEST} bytes long")));
        }
        cx.budget().steps(STEPS << cost)?;
        let mut key = password.as_bytes().to_vec();
        key.push(0);
        key.truncate(LONGEST);
        let salt: [u8; 16] = random(cx)?;
        let hash = bcrypt::bcrypt(cost, salt, &key);
        let form = GeneralPurpose::new(&BCRYPT, NO_PAD);
        text(&format!("$2a${cost:02}${}{}", form.encode(salt), form.encode(&hash[..23])), cx)
    }),
    ("uuidv4", 0, 0, |_, cx| text(&uuid(random(cx)?, 4), cx)),
    ("uuidv5", 2, 2, |a, cx| {
        let hash = Sha1::new().chain_update(namespace(&a[0].to_text()?)?);
        let hash = hash.chain_update(a[1].to_text()?.as_bytes()).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        text(&uuid(bytes, 5), cx)
    }),
];

const DEFAULT_COST: u32 = 10;
/// Bytes of a password, its end included, that count.
const LONGEST: usize = 72;
/// What one of the 2^cost rounds is paid with: some 50 us each, so that a file has a few seconds.
const STEPS: usize = 64;

/// The namespaces of RFC 9562, section 6.6, differ in their first part only.
fn namespace(name: &str) -> Result<[u8; 16]> {
    let first = match name {
        "dns" => "6ba7b810",
        "url" => "6ba7b811",
        "oid" => "6ba7b812",
        "x500" => "6ba7b814",
        _ => return parse(name),
    };
    parse(&format!("{first}-9dad-11d1-80b4-00c04fd430c8"))
}

fn parse(name: &str) -> Result<[u8; 16]> {
    let bad =
        || Error::new(format!("`{}` is no namespace: dns, url, oid, x500 or a UUID", cut(name)));
    let plain = match name.get(..9) {
        // RFC 9562, section 4: only with its lines.
        Some(urn) if urn.eq_ignore_ascii_case("urn:uuid:") => {
            name.get(9..).filter(|n| n.len() == 36).ok_or_else(bad)?
        }
        _ => name.strip_prefix('{').and_then(|n| n.strip_suffix('}')).unwrap_or(name),
    };
    let lines = plain.match_indices('-').map(|(at, _)| at);
    if plain.len() != 32 && !(plain.len() == 36 && lines.eq([8, 13, 18, 23])) {
        return Err(bad());
    }
    let digits: Vec<u8> = plain.bytes().filter(|b| *b != b'-').collect();
    if digits.len() != 32 {
        return Err(bad());
    }
    let mut out = [0; 16];
    for (byte, pair) in out.iter_mut().zip(digits.chunks(2)) {
        let pair =
            std::str::from_utf8(pair).ok().filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()));
        *byte = pair.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(bad)?;
    }
    Ok(out)
}

/// RFC 9562, section 4: version and variant in their places.
fn uuid(mut bytes: [u8; 16], version: u8) -> String {
    bytes[6] = (bytes[6] & 0x0f) | (version << 4);
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

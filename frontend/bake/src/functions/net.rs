//! Addresses of networks, as `ADDRESS/BITS`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::collections::texts;
use super::strings::text;
use super::{MANY, Row};
use crate::budget::{Error, Result};
use crate::value::{Value, cut};

pub(super) const TABLE: &[Row] = &[
    ("cidrhost", 2, 2, |a, cx| text(&Network::read(&a[0])?.host(whole(&a[1])?)?.to_string(), cx)),
    ("cidrnetmask", 1, 1, |a, cx| {
        let network = Network::read(&a[0])?;
        text(&network.with(network.mask()).to_string(), cx)
    }),
    ("cidrsubnet", 3, 3, |a, cx| {
        let (more, number) = (whole(&a[1])?, whole(&a[2])?);
        text(&Network::read(&a[0])?.subnet(more, number)?.to_string(), cx)
    }),
    ("cidrsubnets", 1, MANY, |a, cx| {
        let network = Network::read(&a[0])?;
        let mut free = Some(network.address);
        let mut out = Vec::new();
        for more in &a[1..] {
            let part = network.next(free, whole(more)?)?;
            free = part.end();
            out.push(part.to_string());
        }
        texts(out, cx)
    }),
];

fn whole(value: &Value) -> Result<i64> {
    let n = value.to_number()?;
    n.whole().ok_or_else(|| Error::new(format!("a whole number is needed, found {n}")))
}

/// One network. Its address has zeros behind `bits`.
#[derive(Clone, Copy)]
struct Network {
    address: u128,
    bits: u32,
    /// 32 or 128.
    length: u32,
}

/// The most bits that are added at once.
const MOST: i64 = 32;

impl Network {
    fn read(value: &Value) -> Result<Self> {
        let t = value.to_text()?;
        let bad = || Error::new(format!("`{}` is no network such as 10.0.0.0/16", cut(&t)));
        let (address, bits) = t.split_once('/').ok_or_else(bad)?;
        let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let bits: u32 = bits.parse().ok().filter(|_| digits).ok_or_else(bad)?;
        let (address, length) = match address.parse().map_err(|_| bad())? {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        if bits > length {
            return Err(bad());
        }
        let network = Self { address, bits, length };
        Ok(Self { address: address & network.mask(), ..network })
    }

    /// The count of hosts but one: ones in all bits that are free.
    fn last(self) -> u128 {
        u128::MAX.checked_shr(128 - (self.length - self.bits)).unwrap_or(0)
    }

    fn mask(self) -> u128 {
        let all = u128::MAX >> (128 - self.length);
        all & !self.last()
    }

    fn with(self, address: u128) -> IpAddr {
        match self.length {
            32 => Ipv4Addr::from_bits(address as u32).into(),
            _ => Ipv6Addr::from_bits(address).into(),
        }
    }

    /// A host by its number, from the end if negative.
    fn host(self, number: i64) -> Result<IpAddr> {
        let from_end = u128::from(number.unsigned_abs()).saturating_sub(1);
        let at = match number {
            0.. => number as u128,
            _ => self.last().wrapping_sub(from_end),
        };
        match at <= self.last() && (number >= 0 || from_end <= self.last()) {
            true => Ok(self.with(self.address | at)),
            false => Err(Error::new(format!("{self} has no host numbered {number}"))),
        }
    }

    /// Networks with so many bits more.
    fn longer(self, more: i64, fewest: i64) -> Result<Self> {
        if !(fewest..=MOST).contains(&more) {
            return Err(Error::new(format!("{fewest} to {MOST} bits can be added, not {more}")));
        }
        let bits = self.bits + more as u32;
        match bits <= self.length {
            true => Ok(Self { bits, ..self }),
            false => Err(Error::new(format!("{self} has not {more} bits left"))),
        }
    }

    fn subnet(self, more: i64, number: i64) -> Result<Self> {
        let longer = self.longer(more, 0)?;
        match u128::try_from(number).ok().filter(|n| *n < 1 << more) {
            Some(n) => {
                let at = n.checked_shl(self.length - longer.bits).unwrap_or(0);
                Ok(Self { address: self.address | at, ..longer })
            }
            None => Err(Error::new(format!("{more} bits more have no network numbered {number}"))),
        }
    }

    /// The first network from `free` on that is as long.
    fn next(self, free: Option<u128>, more: i64) -> Result<Self> {
        let longer = self.longer(more, 1)?;
        let size = longer.last();
        let at = free.and_then(|f| Some(f.checked_add(size)? & !size));
        match at.filter(|a| *a >= self.address && *a - self.address <= self.last()) {
            Some(address) => Ok(Self { address, ..longer }),
            None => {
                Err(Error::new(format!("{self} has no room for one more of {} bits", longer.bits)))
            }
        }
    }

    /// The address behind it, unless it is the last of all.
    fn end(self) -> Option<u128> {
        self.address.checked_add(self.last())?.checked_add(1)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.with(self.address), self.bits)
    }
}

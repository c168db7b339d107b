//! Reads the rows of one table of an SQLite file (sqlite.org/fileformat2.html): table b-trees and
//! overflow pages, nothing else. Hostile input: each page is visited once, so the work is bounded by
//! the file's size, and nothing of it is run.

/// A value of a row, as far as anybody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Integer(i64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
    /// NULL or a number with a fraction.
    Other,
}

const MAGIC: &[u8] = b"SQLite format 3\0";
/// Deepest b-tree: one of the smallest pages that fills 2^32 pages is less deep.
const MAX_DEPTH: usize = 24;
/// Most columns of a row that are looked at.
const MAX_COLUMNS: usize = 64;

struct Reader<'a> {
    bytes: &'a [u8],
    page_size: usize,
    /// Of a page, what is not reserved.
    usable: usize,
    seen: Vec<bool>,
    /// Bytes that rows may still have: those of an honest file do not lie over each other.
    left: usize,
}

/// Calls `row` for each row of the table `name`, in the order of its b-tree.
pub(super) fn rows(
    bytes: &[u8],
    name: &str,
    row: &mut dyn FnMut(&[Value<'_>]) -> Result<(), String>,
) -> Result<(), String> {
    if bytes.len() < 100 || !bytes.starts_with(MAGIC) {
        return Err("it is no SQLite file".to_owned());
    }
    let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65536,
        n => usize::from(n),
    };
    let usable = page_size.saturating_sub(usize::from(bytes[20]));
    if !page_size.is_power_of_two() || page_size < 512 || usable < 480 {
        return Err("its page size is none".to_owned());
    }
    if !matches!(bytes[56..60], [0, 0, 0, 0 | 1]) {
        return Err("its text is not UTF-8".to_owned());
    }
    let pages = bytes.len().div_ceil(page_size);
    let reader =
        || Reader { bytes, page_size, usable, seen: vec![false; pages], left: bytes.len() };
    let mut root = None;
    reader().table(1, 0, &mut |cells| {
        if let [Value::Text(b"table"), Value::Text(own), _, Value::Integer(page), ..] = cells
            && *own == name.as_bytes()
        {
            root = root.or(Some(*page));
        }
        Ok(())
    })?;
    let root = root.ok_or_else(|| format!("it has no table `{name}`"))?;
    let root = u32::try_from(root).map_err(|_| damaged())?;
    reader().table(root, 0, row)
}

fn damaged() -> String {
    "it is damaged".to_owned()
}

impl<'a> Reader<'a> {
    /// A page by its number, which is asked for once.
    fn page(&mut self, number: u32) -> Result<&'a [u8], String> {
        let at = (number as usize).checked_sub(1).ok_or_else(damaged)?;
        let seen = self.seen.get_mut(at).ok_or_else(damaged)?;
        if std::mem::replace(seen, true) {
            return Err(damaged());
        }
        let start = at * self.page_size;
        let page = self.bytes.get(start..start + self.page_size).ok_or_else(damaged)?;
        Ok(&page[..self.usable])
    }

    fn table(
        &mut self,
        number: u32,
        depth: usize,
        row: &mut dyn FnMut(&[Value<'_>]) -> Result<(), String>,
    ) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(damaged());
        }
        let page = self.page(number)?;
        // The file's own header stands before that of the first page.
        let head = if number == 1 { 100 } else { 0 };
        let kind = page[head];
        let count = usize::from(be16(page, head + 3)?);
        let first = head + if kind == 5 { 12 } else { 8 };
        for i in 0..count {
            let cell = usize::from(be16(page, first + 2 * i)?);
            match kind {
                5 => self.table(be32(page, cell)?, depth + 1, row)?,
                13 => {
                    let (payload, overflow) = self.cell(page, cell)?;
                    match overflow {
                        None => record(payload, row)?,
                        Some((next, size)) => {
                            let whole = self.overflow(payload, next, size)?;
                            record(&whole, row)?;
                        }
                    }
                }
                _ => return Err(damaged()),
            }
        }
        match kind {
            5 => self.table(be32(page, head + 8)?, depth + 1, row),
            13 => Ok(()),
            _ => Err(damaged()),
        }
    }

    /// The part of a row that is in its page, and the page of the rest with the size of all.
    #[expect(clippy::type_complexity, reason = "read at once by the only caller")]
    fn cell(
        &mut self,
        page: &'a [u8],
        at: usize,
    ) -> Result<(&'a [u8], Option<(u32, usize)>), String> {
        let mut rest = page.get(at..).ok_or_else(damaged)?;
        let size = usize::try_from(varint(&mut rest)?).map_err(|_| damaged())?;
        varint(&mut rest)?;
        self.left = self.left.checked_sub(size.max(4)).ok_or_else(damaged)?;
        let most = self.usable - 35;
        if size <= most {
            return Ok((rest.get(..size).ok_or_else(damaged)?, None));
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let fit = least + (size - least) % (self.usable - 4);
        let local = if fit <= most { fit } else { least };
        let next = be32(rest, local)?;
        Ok((&rest[..local], Some((next, size))))
    }

    fn overflow(&mut self, local: &[u8], mut next: u32, size: usize) -> Result<Vec<u8>, String> {
        let mut out = local.to_vec();
        while out.len() < size {
            let page = self.page(next)?;
            next = be32(page, 0)?;
            let n = (size - out.len()).min(page.len() - 4);
            out.extend_from_slice(&page[4..4 + n]);
        }
        Ok(out)
    }
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, String> {
    let b = bytes.get(at..at + 2).ok_or_else(damaged)?;
    Ok(u16::from_be_bytes([b[0], b[1]]))
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, String> {
    let b = bytes.get(at..at + 4).ok_or_else(damaged)?;
    Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// One to nine bytes, seven bits in each, the ninth whole.
fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut out = 0u64;
    for i in 0..9 {
        let (b, rest) = bytes.split_first().ok_or_else(damaged)?;
        *bytes = rest;
        if i == 8 {
            return Ok(out << 8 | u64::from(*b));
        }
        out = out << 7 | u64::from(b & 0x7f);
        if b & 0x80 == 0 {
            break;
        }
    }
    Ok(out)
}

/// Takes a row apart.
fn record(
    payload: &[u8],
    row: &mut dyn FnMut(&[Value<'_>]) -> Result<(), String>,
) -> Result<(), String> {
    let mut rest = payload;
    let head = usize::try_from(varint(&mut rest)?).map_err(|_| damaged())?;
    let before = payload.len() - rest.len();
    let mut types = payload.get(before..head).ok_or_else(damaged)?;
    let mut body = payload.get(head..).ok_or_else(damaged)?;
    let mut cells = Vec::new();
    while !types.is_empty() && cells.len() < MAX_COLUMNS {
        let kind = varint(&mut types)?;
        let size = match kind {
            0 | 8 | 9 => 0,
            n @ 1..=4 => n as usize,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err(damaged()),
            n => usize::try_from((n - 12) / 2).map_err(|_| damaged())?,
        };
        let (value, after) = body.split_at_checked(size).ok_or_else(damaged)?;
        body = after;
        cells.push(match kind {
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            1..=6 => Value::Integer(integer(value)),
            0 | 7 => Value::Other,
            n if n % 2 == 0 => Value::Blob(value),
            _ => Value::Text(value),
        });
    }
    row(&cells)
}

/// A number of up to eight bytes with a sign.
fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    bytes.iter().fold(if negative { -1 } else { 0 }, |n, b| n << 8 | i64::from(*b))
}

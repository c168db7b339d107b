//! Rules of the packet filter nf_tables: as many kinds as a way out for steps needs.
//!
//! A table with all that is in it is made in one transaction: nobody sees half of it, and of two
//! that make it at once one is told that it is there.

use std::io;

use rustix::net::netlink;

use super::{ACK, CREATE, DUMP, EXCL, Message, Socket, attr, text_of};

const SUBSYSTEM: u8 = libc::NFNL_SUBSYS_NFTABLES as u8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

// Attributes, by what they belong to. The first of each is a name.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const CT_STATE: u32 = 0;
/// A packet that belongs to no connection and begins none.
const CT_INVALID: u32 = 1;
/// A connection that begins, or a packet that belongs to none.
const CT_NEW_OR_INVALID: u32 = 8 | CT_INVALID;

/// Where in a packet's way a chain is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// It has arrived.
    Input,
    /// It goes from one link to another.
    Forward,
    /// It is about to leave.
    Postrouting,
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Input => libc::NF_INET_LOCAL_IN as u32,
            Self::Forward => libc::NF_INET_FORWARD as u32,
            Self::Postrouting => libc::NF_INET_POST_ROUTING as u32,
        }
    }
}

/// Links by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// This one.
    Is(&'a str),
    /// All whose name begins so.
    Begins(&'a str),
}

impl Name<'_> {
    /// What the kernel compares; it compares as many bytes as there are here.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Begins(name) => name.as_bytes().to_vec(),
            Self::Is(name) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(libc::IFNAMSIZ, 0);
                bytes
            }
        }
    }
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match<'a> {
    /// The packet came in by such a link.
    Input(Name<'a>),
    /// It goes out by such a link.
    Output(Name<'a>),
    /// It goes out by another link.
    OutputNot(Name<'a>),
    /// It begins a connection, or belongs to none.
    NewConnection,
    /// It belongs to no connection and begins none.
    Invalid,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes no further.
    Drop,
    /// It passes this chain.
    Accept,
    /// It gets the address of the link by which it leaves.
    Masquerade,
}

/// All matches, then the verdict.
pub type Rule<'a> = (&'a [Match<'a>], Verdict);

/// A chain with its rules, to be made.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    /// Name.
    pub name: &'a str,
    /// Where.
    pub hook: Hook,
    /// It changes addresses.
    pub nat: bool,
    /// Its rules, in order.
    pub rules: &'a [Rule<'a>],
}

/// Priority of chains that only filter, and of those that change the sender's address.
const PRIORITY_FILTER: u32 = 0;
const PRIORITY_SOURCE_NAT: u32 = 100;

/// A chain that is there, or is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainName {
    /// `AF_INET`, `NFPROTO_INET`, ...
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

/// IPv4 and IPv6 at once.
pub const INET: u8 = libc::NFPROTO_INET as u8;
/// IPv4.
pub const IPV4: u8 = libc::NFPROTO_IPV4 as u8;
/// IPv6.
pub const IPV6: u8 = libc::NFPROTO_IPV6 as u8;

/// A socket for wishes about the packet filter of one namespace.
#[derive(Debug)]
pub struct FilterSocket(Socket);

impl FilterSocket {
    /// For the namespace of the calling thread.
    ///
    /// # Errors
    /// The error of `socket(2)`; `EPROTONOSUPPORT` when the kernel has no packet filter.
    pub fn open() -> io::Result<Self> {
        Socket::open(Some(netlink::NETFILTER)).map(Self)
    }

    /// True when a table is there.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` when it has no nf_tables.
    pub fn has_table(&self, family: u8, table: &str) -> io::Result<bool> {
        let ask = message(GET_TABLE, ACK, family).text(TABLE_NAME, table);
        match self.0.dump(ask, |_| ()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            asked => asked.map(|()| true),
        }
    }

    /// Makes a table with its chains; one that somebody else just made stays as it is.
    ///
    /// # Errors
    /// The kernel's; then nothing was made.
    pub fn add_table(&self, family: u8, table: &str, chains: &[Chain<'_>]) -> io::Result<()> {
        let mut batch = vec![message(NEW_TABLE, CREATE | EXCL, family).text(TABLE_NAME, table)];
        for chain in chains {
            let (kind, priority) = match chain.nat {
                true => ("nat", PRIORITY_SOURCE_NAT),
                false => ("filter", PRIORITY_FILTER),
            };
            batch.push(
                message(NEW_CHAIN, CREATE, family)
                    .text(CHAIN_TABLE, table)
                    .text(CHAIN_NAME, chain.name)
                    .nest(CHAIN_HOOK, |m| {
                        m.be32(HOOK_NUMBER, chain.hook.number()).be32(HOOK_PRIORITY, priority)
                    })
                    .be32(CHAIN_POLICY, libc::NF_ACCEPT as u32)
                    .text(CHAIN_TYPE, kind),
            );
            batch.extend(
                chain.rules.iter().map(|r| rule(family, table, chain.name, r, CREATE | APPEND)),
            );
        }
        match self.commit(batch) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        }
    }

    /// Adds rules before all others of a chain, with a name to find them by.
    ///
    /// # Errors
    /// The kernel's; then none was added.
    pub fn prepend(&self, to: &ChainName, name: &str, rules: &[Rule<'_>]) -> io::Result<()> {
        let add =
            |r| rule(to.family, &to.table, &to.name, r, CREATE).attr(RULE_USERDATA, &comment(name));
        self.commit(rules.iter().map(add).collect())
    }

    /// Removes all rules of a chain.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&self, chain: &ChainName) -> io::Result<()> {
        let message = message(DELETE_RULE, 0, chain.family);
        let message = message.text(RULE_TABLE, &chain.table).text(RULE_CHAIN, &chain.name);
        self.commit(vec![message])
    }

    /// How many rules of a chain [`Self::prepend`] gave this name.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&self, of: &ChainName, name: &str) -> io::Result<usize> {
        let ask = message(GET_RULE, DUMP, of.family)
            .text(RULE_TABLE, &of.table)
            .text(RULE_CHAIN, &of.name);
        let (mut count, wanted) = (0, comment(name));
        self.0.dump(ask, |body| {
            let inside = body.get(4..).unwrap_or(&[]);
            // Old kernels do not choose for us.
            let here = [(RULE_TABLE, &of.table), (RULE_CHAIN, &of.name)];
            let here =
                here.iter().all(|(k, want)| attr(inside, *k).map(text_of) == Some((*want).clone()));
            count += usize::from(here && attr(inside, RULE_USERDATA) == Some(&wanted));
        })?;
        Ok(count)
    }

    /// The chains that decide about packets on their way through and drop what they do not know.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dropping_forward_chains(&self) -> io::Result<Vec<ChainName>> {
        let mut out = Vec::new();
        let unspecified = libc::NFPROTO_UNSPEC as u8;
        self.0.dump(message(GET_CHAIN, DUMP, unspecified), |body| out.extend(dropping(body)))?;
        Ok(out)
    }

    /// One transaction: all or nothing.
    fn commit(&self, messages: Vec<Message>) -> io::Result<()> {
        // It is for the subsystem named here, not of it.
        let edge = |kind| Message::new(kind, 0, &[0, 0, 0, SUBSYSTEM]);
        let mut bytes = edge(BATCH_BEGIN).finish(self.0.next());
        let mut waiting = Vec::new();
        for m in messages {
            let sequence = self.0.next();
            waiting.push(sequence);
            bytes.extend(m.finish(sequence));
        }
        bytes.extend(edge(BATCH_END).finish(self.0.next()));
        self.0.send(&bytes)?;
        self.0.receive(|a| {
            let done = super::acknowledged(&a)?;
            // The kernel also answers the beginning when it cannot do any of it.
            if done.is_err() {
                return Some(done);
            }
            waiting.retain(|s| *s != a.sequence);
            waiting.is_empty().then_some(Ok(()))
        })
    }
}

fn message(kind: u16, flags: u16, family: u8) -> Message {
    let kind = u16::from(SUBSYSTEM) << 8 | kind;
    Message::new(kind, flags | ACK, &[family, 0, 0, 0])
}

fn dropping(body: &[u8]) -> Option<ChainName> {
    let family = *body.first()?;
    let inside = body.get(4..)?;
    let be32 = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    let hook = attr(attr(inside, CHAIN_HOOK)?, HOOK_NUMBER).and_then(be32)?;
    let policy = attr(inside, CHAIN_POLICY).and_then(be32)?;
    let known = [INET, IPV4, IPV6].contains(&family);
    (known && hook == Hook::Forward.number() && policy == libc::NF_DROP as u32).then_some(())?;
    let text = |kind| attr(inside, kind).map(text_of);
    Some(ChainName { family, table: text(CHAIN_TABLE)?, name: text(CHAIN_NAME)? })
}

/// A comment as `nft` writes it behind a rule.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut out = vec![0, length];
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    out
}

fn rule(family: u8, table: &str, chain: &str, (matches, verdict): &Rule<'_>, how: u16) -> Message {
    message(NEW_RULE, how, family).text(RULE_TABLE, table).text(RULE_CHAIN, chain).nest(
        RULE_EXPRESSIONS,
        |m| {
            let m = matches.iter().fold(m, |m, one| look(m, *one));
            match verdict {
                Verdict::Drop => end(m, libc::NF_DROP as u32),
                Verdict::Accept => end(m, libc::NF_ACCEPT as u32),
                Verdict::Masquerade => expression(m, "masq", |m| m),
            }
        },
    )
}

fn look(m: Message, what: Match<'_>) -> Message {
    let (key, compare, name) = match what {
        Match::Input(name) => (META_IIFNAME, CMP_EQ, name),
        Match::Output(name) => (META_OIFNAME, CMP_EQ, name),
        Match::OutputNot(name) => (META_OIFNAME, CMP_NEQ, name),
        Match::NewConnection => return look_at_state(m, CT_NEW_OR_INVALID),
        Match::Invalid => return look_at_state(m, CT_INVALID),
    };
    let m = expression(m, "meta", |m| m.be32(1, REG_1).be32(2, key));
    expression(m, "cmp", |m| {
        m.be32(1, REG_1).be32(2, compare).nest(3, |m| m.attr(DATA_VALUE, &name.bytes()))
    })
}

/// The packet's connection is in any of these states.
fn look_at_state(m: Message, states: u32) -> Message {
    let m = expression(m, "ct", |m| m.be32(1, REG_1).be32(2, CT_STATE));
    let m = expression(m, "bitwise", |m| {
        m.be32(1, REG_1)
            .be32(2, REG_1)
            .be32(3, 4)
            .nest(4, |m| m.u32(DATA_VALUE, states))
            .nest(5, |m| m.u32(DATA_VALUE, 0))
    });
    expression(m, "cmp", |m| m.be32(1, REG_1).be32(2, CMP_NEQ).nest(3, |m| m.u32(DATA_VALUE, 0)))
}

fn end(m: Message, code: u32) -> Message {
    expression(m, "immediate", |m| {
        m.be32(1, REG_VERDICT).nest(2, |m| m.nest(DATA_VERDICT, |m| m.be32(VERDICT_CODE, code)))
    })
}

fn expression(m: Message, name: &str, inside: impl FnOnce(Message) -> Message) -> Message {
    m.nest(LIST_ELEM, |m| m.text(EXPR_NAME, name).nest(EXPR_DATA, inside))
}

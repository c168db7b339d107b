//! Who the processes of a step take themselves for, by the rules of credentials(7).
//!
//! To the kernel all of them are root. What a process took itself for last has a number, and the
//! process carries the number (`rgraph_sys::other::mark`): so its children have it too, and the
//! programs it runs.

use std::collections::HashMap;
use std::rc::Rc;

use rgraph_sys::other;
use rgraph_sys::seccomp::asked::{Change, Kind};
use rustix::io::Errno;

/// Told apart from limits that somebody set.
const TAG: u64 = 0x7267_6964_0000_0000;
/// Different identities of one step.
const MOST: usize = 1 << 16;
/// Groups of all identities of one step.
const MOST_GROUPS: usize = 1 << 20;

/// The ids of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    /// What files are made and looked at with.
    pub files: u32,
}

/// An identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Person {
    pub user: Ids,
    pub group: Ids,
    pub groups: Vec<u32>,
}

impl Ids {
    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// As `change` asks for; `any`: with the right to become anybody.
    fn changed(self, change: Change, any: bool) -> Result<Self, Errno> {
        let allowed = |ok: bool| if ok || any { Ok(()) } else { Err(Errno::PERM) };
        let mut new = self;
        match change {
            Change::All(u32::MAX) => return Err(Errno::INVAL),
            Change::All(id) => {
                allowed(id == self.real || id == self.saved)?;
                new.effective = id;
                if any {
                    (new.real, new.saved) = (id, id);
                }
            }
            Change::Two(real, effective) => {
                if let Some(id) = real {
                    allowed(id == self.real || id == self.effective)?;
                    new.real = id;
                }
                if let Some(id) = effective {
                    allowed(self.has(id))?;
                    new.effective = id;
                }
                if real.is_some() || effective.is_some_and(|id| id != self.real) {
                    new.saved = new.effective;
                }
            }
            Change::Three(real, effective, saved) => {
                for id in [real, effective, saved].into_iter().flatten() {
                    allowed(self.has(id))?;
                }
                new.real = real.unwrap_or(self.real);
                new.effective = effective.unwrap_or(self.effective);
                new.saved = saved.unwrap_or(self.saved);
            }
            Change::Files(id) => {
                if id != u32::MAX && (any || self.has(id) || id == self.files) {
                    new.files = id;
                }
                return Ok(new);
            }
        }
        new.files = new.effective;
        Ok(new)
    }

    fn after_exec(self, effective: Option<u32>) -> Self {
        let id = effective.unwrap_or(self.effective);
        Self { real: self.real, effective: id, saved: id, files: id }
    }
}

impl Person {
    /// True for who may become anybody.
    pub fn is_root(&self) -> bool {
        self.user.effective == 0
    }

    pub fn ids(&self, kind: Kind) -> Ids {
        match kind {
            Kind::User => self.user,
            Kind::Group => self.group,
        }
    }

    pub fn changed(&self, kind: Kind, change: Change) -> Result<Self, Errno> {
        let mut new = self.clone();
        match kind {
            Kind::User => new.user = self.user.changed(change, self.is_root())?,
            Kind::Group => new.group = self.group.changed(change, self.is_root())?,
        }
        Ok(new)
    }

    pub fn with_groups(&self, mut groups: Vec<u32>) -> Result<Self, Errno> {
        if !self.is_root() {
            return Err(Errno::PERM);
        }
        if groups.contains(&u32::MAX) {
            return Err(Errno::INVAL);
        }
        // As the kernel keeps them.
        groups.sort_unstable();
        Ok(Self { groups, ..self.clone() })
    }

    /// Once it runs a program that gives it this user and group.
    pub fn after_exec(&self, user: Option<u32>, group: Option<u32>) -> Self {
        Self {
            user: self.user.after_exec(user),
            group: self.group.after_exec(group),
            groups: self.groups.clone(),
        }
    }

    /// Whether it may give a file of `owner` to `uid` and `gid`: root may, and an owner may choose
    /// among its own groups.
    pub fn may_give(&self, owner: (u32, u32), uid: Option<u32>, gid: Option<u32>) -> bool {
        let own = self.user.files == owner.0;
        let stays = uid.is_none_or(|uid| uid == owner.0);
        let known =
            |gid: u32| gid == owner.1 || gid == self.group.files || self.groups.contains(&gid);
        self.user.files == 0 || (own && stays && gid.is_none_or(known))
    }
}

/// Who a process is, by the mark that it carried.
pub(super) struct Known {
    person: Rc<Person>,
    mark: u64,
}

impl std::ops::Deref for Known {
    type Target = Person;

    fn deref(&self) -> &Person {
        &self.person
    }
}

/// All identities of a step.
#[derive(Default)]
pub(super) struct People {
    known: Vec<Rc<Person>>,
    numbers: HashMap<Rc<Person>, usize>,
    groups: usize,
    root: Rc<Person>,
}

impl People {
    /// Who a thread's process is.
    pub fn of(&self, thread: u32) -> Result<Known, Errno> {
        let mark = other::mark(thread).map_err(errno)?;
        let known = mark.checked_sub(TAG).and_then(|n| self.known.get(usize::try_from(n).ok()?));
        Ok(Known { person: known.unwrap_or(&self.root).clone(), mark })
    }

    /// Makes a thread's process somebody else than `before`. `is_right`: as in [`other::set_mark`].
    pub fn become_one(
        &mut self,
        thread: u32,
        before: &Known,
        person: Person,
        is_right: impl FnOnce() -> bool,
    ) -> Result<(), Errno> {
        if *before.person == person {
            return Ok(());
        }
        let number = self.number(person)?;
        other::set_mark(thread, before.mark, TAG + number as u64, is_right).map_err(errno)
    }

    fn number(&mut self, person: Person) -> Result<usize, Errno> {
        if let Some(number) = self.numbers.get(&person) {
            return Ok(*number);
        }
        let groups = self.groups + person.groups.len();
        if self.known.len() >= MOST || groups > MOST_GROUPS {
            return Err(Errno::AGAIN);
        }
        self.groups = groups;
        let person = Rc::new(person);
        let number = self.known.len();
        self.known.push(person.clone());
        self.numbers.insert(person, number);
        Ok(number)
    }
}

pub(super) fn errno(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(real: u32, effective: u32, saved: u32, files: u32) -> Ids {
        Ids { real, effective, saved, files }
    }

    #[test]
    fn ids_change_as_the_kernel_changes_them() {
        let (perm, inval) = (Err(Errno::PERM), Err(Errno::INVAL));
        for (from, any, change, want) in [
            (ids(0, 0, 0, 0), true, Change::All(5), Ok(ids(5, 5, 5, 5))),
            (ids(5, 5, 5, 5), false, Change::All(0), perm),
            (ids(5, 0, 0, 0), false, Change::All(5), Ok(ids(5, 5, 0, 5))),
            (ids(5, 5, 0, 5), false, Change::All(0), Ok(ids(5, 0, 0, 0))),
            (ids(0, 0, 0, 0), true, Change::All(u32::MAX), inval),
            (ids(1, 2, 3, 2), false, Change::Two(Some(2), Some(1)), Ok(ids(2, 1, 1, 1))),
            (ids(1, 2, 3, 2), false, Change::Two(Some(3), None), perm),
            (ids(1, 2, 3, 2), false, Change::Two(None, Some(3)), Ok(ids(1, 3, 3, 3))),
            (ids(1, 2, 3, 2), false, Change::Two(None, Some(1)), Ok(ids(1, 1, 3, 1))),
            (ids(1, 2, 3, 2), false, Change::Two(None, None), Ok(ids(1, 2, 3, 2))),
            (ids(1, 2, 3, 2), false, Change::Three(Some(3), None, Some(1)), Ok(ids(3, 2, 1, 2))),
            (ids(1, 2, 3, 2), false, Change::Three(None, Some(4), None), perm),
            (ids(0, 0, 0, 0), true, Change::Three(None, Some(4), None), Ok(ids(0, 4, 0, 4))),
            (ids(1, 2, 3, 2), false, Change::Files(3), Ok(ids(1, 2, 3, 3))),
            (ids(1, 2, 3, 2), false, Change::Files(9), Ok(ids(1, 2, 3, 2))),
        ] {
            assert_eq!(from.changed(change, any), want, "{from:?} {change:?}");
        }
    }

    #[test]
    fn who_is_nobody_special_gives_nothing_away() {
        let app = Person::default()
            .with_groups(vec![30, 20])
            .and_then(|p| p.changed(Kind::Group, Change::All(10)))
            .and_then(|p| p.changed(Kind::User, Change::All(10)))
            .unwrap();
        assert_eq!(app.groups, [20, 30]);
        assert!(app.with_groups(vec![]).is_err());
        assert!(app.may_give((10, 10), None, Some(20)) && app.may_give((10, 5), Some(10), Some(5)));
        assert!(!app.may_give((10, 10), None, Some(21)) && !app.may_give((10, 10), Some(0), None));
        assert!(!app.may_give((0, 10), None, Some(10)));
        assert!(Person::default().may_give((7, 7), Some(9), Some(9)));
    }

    #[test]
    fn a_program_of_roots_makes_root() {
        let app = Person::default().changed(Kind::User, Change::All(10)).unwrap();
        let su = app.after_exec(Some(0), None);
        assert_eq!(su.user, ids(10, 0, 0, 0));
        assert!(su.changed(Kind::User, Change::All(7)).is_ok());
    }

    #[test]
    fn identities_are_counted_once_and_not_without_end() {
        let mut people = People::default();
        let person = |n: u32| Person { groups: vec![n], ..Person::default() };
        assert_eq!(people.number(person(1)), Ok(0));
        assert_eq!(people.number(person(2)), Ok(1));
        assert_eq!(people.number(person(1)), Ok(0));
        let many = Person { groups: (0..1 << 20).collect(), ..Person::default() };
        assert_eq!(people.number(many), Err(Errno::AGAIN));
    }
}

//! Transactions and the ledger of routing, as PostgreSQL numbers and shows them: a transcription of
//! `pg_current_snapshot()`, and of how `read_events.sql`, `route.sql` and `route_few.sql` choose
//! the events of a step and move the cursor.

/// A transaction's number.
pub type Xid = u8;

/// The number of the first transaction. All before it have ended.
pub const FIRST: Xid = 10;

/// `pg_snapshot`: below `xmax` all have ended but those in `open`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    pub xmax: Xid,
    /// `pg_snapshot_xip`, in their order.
    pub open: Vec<Xid>,
}

impl Snapshot {
    /// `pg_visible_in_snapshot`.
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && !self.open.contains(&xid)
    }

    /// `pg_snapshot_xmin`.
    pub fn xmin(&self) -> Xid {
        self.open.first().copied().unwrap_or(self.xmax)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    Open,
    Committed,
    Aborted,
}

/// The numbers that were given, and the cursor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// The fate of each transaction, from [`FIRST`] on.
    pub fates: Vec<Fate>,
    pub since: Snapshot,
    pub until: Snapshot,
    /// Of a span that is not routed to its end: its last transaction that is.
    pub after: Option<Xid>,
}

/// What a step of routing has read, and what it leaves when it is written.
#[derive(Debug, Clone)]
pub struct Read {
    /// The transactions whose events it routes.
    pub found: Vec<Xid>,
    /// There may be more in this span.
    pub more: bool,
    /// It went on with a span that another step had begun.
    pub taken_up: bool,
    pub xmin: Xid,
    since: Snapshot,
    until: Snapshot,
}

impl Ledger {
    /// Routing has ended with all that there was.
    pub fn new() -> Self {
        let none = Snapshot { xmax: FIRST, open: Vec::new() };
        Self { fates: Vec::new(), since: none.clone(), until: none, after: None }
    }

    /// A transaction gets its number.
    pub fn begin(&mut self) -> Xid {
        self.fates.push(Fate::Open);
        self.newest()
    }

    fn newest(&self) -> Xid {
        FIRST - 1 + Xid::try_from(self.fates.len()).unwrap()
    }

    pub fn end(&mut self, xid: Xid, fate: Fate) {
        self.fates[usize::from(xid - FIRST)] = fate;
    }

    fn fate(&self, xid: Xid) -> Fate {
        self.fates[usize::from(xid - FIRST)]
    }

    /// `pg_current_snapshot()`. Its `xmax` is above the highest number that has *ended*: there may
    /// be open transactions at and above it.
    pub fn now(&self) -> Snapshot {
        let ended = (FIRST..=self.newest()).rev().find(|xid| self.fate(*xid) != Fate::Open);
        let xmax = ended.map_or(FIRST, |xid| xid + 1);
        let open = (FIRST..xmax).filter(|xid| self.fate(*xid) == Fate::Open).collect();
        Snapshot { xmax, open }
    }

    /// `read_events.sql`, and likewise `route.sql` (their `span`, `range` and `event`): what is
    /// visible in `until` and not in `since`, by ranges of numbers; `most` transactions at most.
    pub fn read(&self, most: usize) -> Read {
        let now = self.now();
        let taken_up = self.after.is_some();
        let (since, until) = if taken_up {
            (self.since.clone(), self.until.clone())
        } else {
            (self.until.clone(), now.clone())
        };
        let after = self.after.unwrap_or(0);
        // Transactions that were open at since and have ended by until, and those after it.
        let late = since.open.iter().filter(|xid| **xid >= after && until.sees(**xid)).copied();
        let late: Vec<Xid> = late.collect();
        let range = late.into_iter().chain(since.xmax..until.xmax);
        let mut found: Vec<Xid> = range
            .filter(|xid| *xid > after && until.sees(*xid) && self.fate(*xid) == Fate::Committed)
            .collect();
        found.sort_unstable();
        found.truncate(most);
        let more = found.len() == most;
        Read { found, more, taken_up, xmin: now.xmin(), since, until }
    }

    /// `route_few.sql` (its `span` and `seen`): reads from the oldest late transaction on, and
    /// leaves out what is visible in `since`. `None`: a span that is not finished.
    pub fn read_few(&self) -> Option<Vec<Xid>> {
        let (since, until) = (&self.until, self.now());
        let late = since.open.iter().find(|xid| until.sees(**xid)).copied();
        let from = late.unwrap_or(since.xmax);
        let seen = (from..until.xmax).filter(|xid| self.fate(*xid) == Fate::Committed);
        self.after.is_none().then(|| seen.filter(|xid| !since.sees(*xid)).collect())
    }

    /// `write_step.sql`, and the second half of `route.sql` (`advanced`): the cursor moves on,
    /// under a number of its own, unless there was nothing.
    pub fn write(&mut self, read: &Read) {
        if read.found.is_empty() && !read.taken_up {
            return;
        }
        self.since = read.since.clone();
        self.until = read.until.clone();
        self.after = if read.more { read.found.last().copied() } else { None };
        let own = self.begin();
        // No event: to the model it is as good as one that was rolled back.
        self.end(own, Fate::Aborted);
    }

    /// Whether the cursor says that this transaction is routed (`posthaste_internal.is_routed`).
    pub fn is_routed(&self, xid: Xid) -> bool {
        match self.after {
            None => self.until.sees(xid),
            Some(after) => self.since.sees(xid) || (self.until.sees(xid) && xid <= after),
        }
    }
}

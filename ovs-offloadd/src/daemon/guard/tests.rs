use std::os::fd::OwnedFd;

use super::*;

/// The other end, in the test's hands.
struct Other {
    directory: tempfile::TempDir,
    listener: OwnedFd,
    link: Option<OwnedFd>,
}

impl Other {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = seqpacket::listen(&directory.path().join("guard.sock")).unwrap();
        Self { directory, listener, link: None }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("guard.sock")
    }

    /// What it was told last.
    fn hears(&mut self) -> Vec<ToGuard> {
        if let Some((link, _)) = seqpacket::accept(&self.listener).unwrap() {
            self.link = Some(link);
        }
        let (mut said, mut buffer) = (Vec::new(), vec![0; BYTES_MAX]);
        while let Some(link) = &self.link {
            match seqpacket::receive(link, &mut buffer).unwrap() {
                Packet::Bytes(length) => said.push(serde_json::from_slice(&buffer[..length]).unwrap()),
                Packet::Nothing => break,
                Packet::End => self.link = None,
            }
        }
        said
    }

    fn says(&self, words: &FromGuard) {
        seqpacket::send(self.link.as_ref().unwrap(), &serde_json::to_vec(words).unwrap()).unwrap();
    }

    fn gives(&self, seq: u64, for_ms: u64) {
        self.says(&FromGuard::Lease { seq, for_ms, take_within_ms: 0, removed: 0 });
    }
}

/// A turn at once, whatever time it is.
fn turn(guard: &mut Guard) -> Vec<Event> {
    let mut events = Vec::new();
    guard.next = Micros::ZERO;
    guard.turn(&mut events);
    events
}

/// A guard that has given a lease for so long.
fn met(for_ms: u64) -> (Other, Guard) {
    let (mut other, mut guard) = (Other::new(), Guard::new());
    guard.need(Some(&other.socket()), &mut Vec::new());
    assert_eq!(turn(&mut guard), []);
    assert_eq!(other.hears(), [ToGuard::Hello { version: VERSION, answers: false }]);
    other.gives(0, 0);
    assert_eq!(turn(&mut guard), [Event::Lease(Lease::TakingOver)]);
    assert!(!guard.may_make(now()));
    let Some(ToGuard::Beat { seq }) = other.hears().pop() else { panic!("no beat") };
    other.gives(seq, for_ms);
    assert_eq!(turn(&mut guard), [Event::Lease(Lease::Held)]);
    (other, guard)
}

#[tokio::test]
async fn a_lease_ends_by_our_own_clock_counted_from_the_beat() {
    let (_other, mut guard) = met(60_000);
    assert!(guard.may_make(now()));
    assert!(!guard.may_make(guard.until));
    let (Some(until), time) = (guard.ends_at(), now()) else { panic!("it never ends") };
    assert!(until < time.plus(Micros::from_secs(60)), "it is counted from the answer");
    guard.until = time;
    assert_eq!(turn(&mut guard), [Event::Lease(Lease::None)]);
}

#[tokio::test]
async fn a_guard_that_goes_is_waited_for_as_long_as_its_lease_lasts() {
    let (mut other, mut guard) = met(60_000);
    other.link = None;
    assert_eq!(turn(&mut guard), []);
    assert!(guard.may_make(now()) && !guard.connection.up);
    assert_eq!(turn(&mut guard), []);
    assert_eq!(other.hears().first(), Some(&ToGuard::Hello { version: VERSION, answers: true }));
    other.gives(0, 60_000);
    assert_eq!(turn(&mut guard), []);
    assert!(guard.connection.up);
}

#[tokio::test]
async fn a_daemon_whose_rules_were_taken_begins_anew() {
    let (mut other, mut guard) = met(60_000);
    other.hears();
    other.says(&FromGuard::Taken);
    assert_eq!(turn(&mut guard), [Event::Lease(Lease::None)]);
    assert!(!guard.may_make(now()));
    turn(&mut guard);
    other.link = None;
    assert_eq!(other.hears().first(), Some(&ToGuard::Hello { version: VERSION, answers: false }));
}

#[tokio::test]
async fn what_was_taken_over_goes_where_no_lease_follows() {
    let (mut other, mut guard) = (Other::new(), Guard::new());
    guard.need(Some(&other.socket()), &mut Vec::new());
    turn(&mut guard);
    other.hears();
    other.gives(0, 0);
    turn(&mut guard);
    let mut events = Vec::new();
    guard.took_over(vec![4, 5], &mut events);
    assert!(other.hears().contains(&ToGuard::Took { devices: vec![4, 5] }));
    assert_eq!((turn(&mut guard), guard.may_make(now())), (vec![], false));
    guard.until = now();
    assert_eq!(turn(&mut guard), [Event::Lease(Lease::None)]);
}

#[tokio::test]
async fn without_need_of_a_guard_rules_may_be_made_and_one_that_is_not_needed_any_more_is_told() {
    let (mut other, mut guard) = met(60_000);
    let mut events = Vec::new();
    guard.need(None, &mut events);
    assert_eq!(events, [Event::Lease(Lease::None)]);
    assert_eq!(other.hears().pop(), Some(ToGuard::Bye));
    assert!(guard.may_make(now()) && !guard.is_needed());
}

#[tokio::test]
async fn another_daemon_at_the_guard_is_told_of() {
    let (mut other, mut guard) = (Other::new(), Guard::new());
    guard.need(Some(&other.socket()), &mut Vec::new());
    turn(&mut guard);
    other.hears();
    other.says(&FromGuard::Busy);
    assert_eq!(turn(&mut guard), []);
    assert_eq!(guard.connection.detail.as_deref(), Some("another ovs-offloadd is there"));
}

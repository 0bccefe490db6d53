//! Recordings of the flow table, of everything the simulation does to it, read again by the replay.

use crate::facts::Scene;
use crate::ovs::ufid;
use crate::run::{Plan, Run};
use offload_engine::recording::{BUFFER_BYTES_MAX, NoSession, SESSIONS_MAX, SessionId, UNREAD_MAX};
use offload_engine::{Count, Counters, Engine, Micros, Traffic};
use policies::recording::{Amount, Split};
use policies::replay::{RecordedTraffic, Taken};
use policies::rules::Rules;

/// Reads a session as a client does, and plays what it read.
struct Client {
    session: SessionId,
    read: u64,
    unplayed: Vec<u8>,
    traffic: RecordedTraffic,
    epochs: u64,
}

impl Client {
    fn start(engine: &mut Engine, now: Micros, buffer_max: usize) -> Self {
        let session = engine.start_recording(now, 0, buffer_max).expect("the first session");
        let traffic = RecordedTraffic::new(Rules::default(), Micros::ZERO);
        Self { session, read: 0, unplayed: Vec::new(), traffic, epochs: 0 }
    }

    /// Reads what there is; returns whether it was the last.
    fn read(&mut self, engine: &mut Engine, now: Micros) -> bool {
        let chunk = engine.read_recording(now, self.session, self.read).expect("the session is there");
        self.read += chunk.bytes.len() as u64;
        self.unplayed.extend_from_slice(&chunk.bytes);
        let mut at = 0;
        loop {
            let (length, taken) = self.traffic.take(&self.unplayed[at..]).expect("a recording");
            at += length;
            match taken {
                Taken::Epoch => self.epochs += 1,
                Taken::Start => {}
                Taken::All => break,
                Taken::End(ending) => panic!("{ending:?}"),
            }
        }
        self.unplayed.drain(..at);
        chunk.is_last
    }

    fn finish(&mut self, engine: &mut Engine, now: Micros) {
        self.read(engine, now);
        engine.stop_recording(now, self.session).expect("the session is there");
        assert!(self.read(engine, now), "what was stopped has an end");
        assert!(self.unplayed.is_empty());
    }
}

fn split(traffic: Traffic) -> Split {
    let amount = |count: Count| Amount { packets: count.packets, bytes: count.bytes };
    Split { software: amount(traffic.software), hardware: amount(traffic.hardware) }
}

#[test]
fn a_recording_holds_every_packet_that_was_counted_in_its_time() {
    let plan = |seed| Plan {
        seed,
        steps: 400,
        counters: if seed % 4 < 2 { Counters::Fast } else { Counters::Exact },
        crashes: false,
        overruns: seed % 3 == 0,
        resurrects: seed % 2 == 1,
        reloads: false,
        units: false,
    };
    for seed in 0..1_000 {
        let mut run = Run::new(plan(seed));
        (0..seed % 100).for_each(|_| run.step());
        let before = run.engine.status(run.now);
        let (totals, promotions, demotions) =
            (before.totals, before.tally.promotions, before.tally.demotions);
        let mut client = Client::start(&mut run.engine, run.now, BUFFER_BYTES_MAX);
        for step in 0..plan(seed).steps {
            run.step();
            if step % (1 + seed as u32 % 37) == 0 {
                client.read(&mut run.engine, run.now);
            }
        }
        run.come_to_rest();
        client.finish(&mut run.engine, run.now);
        let after = run.engine.status(run.now);
        let done = client.traffic.done();
        assert_eq!(done.moved, split(after.totals.since(totals)), "seed {seed}");
        assert_eq!(done.promotions, after.tally.promotions - promotions, "seed {seed}");
        assert_eq!(done.demotions, after.tally.demotions - demotions, "seed {seed}");
        assert_eq!((done.merged, done.left_out_max), (0, 0), "seed {seed}: nothing had to be left out");
        let there = run.engine.flows(run.now).count();
        assert_eq!(client.traffic.live() as usize, there, "seed {seed}");
        assert!(client.epochs > 10, "seed {seed}: {} epochs", client.epochs);
    }
}

#[test]
fn what_there_is_no_room_for_is_told_and_still_counted() {
    let mut scene = Scene::new(Counters::Fast);
    // Room for a few of them.
    let mut client = Client::start(&mut scene.engine, scene.now, 2 * (48 << 10) + 600);
    for flow in 1..200 {
        scene.ovs.install(&mut scene.kernel, ufid(flow), 1);
    }
    scene.tell_notifications();
    for _ in 0..3 {
        for flow in 1..200 {
            scene.kernel.packets(ufid(flow), 10);
        }
        scene.epoch();
    }
    let moved = |scene: &Scene| split(scene.engine.status(scene.now).totals);
    client.read(&mut scene.engine, scene.now);
    let done = client.traffic.done();
    assert!(done.left_out_max > 100 && client.traffic.live() > 3, "{done:?}");
    assert!(done.stray.packets > 0 && done.moved == moved(&scene), "{done:?}");
    // With someone reading, those left out are described in their turn.
    for _ in 0..200 {
        scene.epoch();
        client.read(&mut scene.engine, scene.now);
    }
    assert_eq!(client.traffic.live() as usize, scene.engine.flows(scene.now).count());
    // With nobody reading, whole epochs come together.
    for _ in 0..100 {
        for flow in 1..200 {
            scene.kernel.packets(ufid(flow), 100_000);
        }
        scene.epoch();
    }
    client.read(&mut scene.engine, scene.now);
    scene.epoch();
    client.finish(&mut scene.engine, scene.now);
    let done = client.traffic.done();
    assert!(done.merged > 0, "{done:?}");
    assert_eq!(done.moved, moved(&scene));
}

#[test]
fn a_session_that_nobody_reads_ends_by_itself() {
    let (mut scene, flow) = Scene::promoted(Counters::Fast);
    let mut read = Client::start(&mut scene.engine, scene.now, BUFFER_BYTES_MAX);
    let unread = Client::start(&mut scene.engine, scene.now, BUFFER_BYTES_MAX);
    let begun = scene.now;
    while scene.now.since(begun) <= UNREAD_MAX {
        scene.kernel.packets(flow, 10);
        scene.epoch();
        read.read(&mut scene.engine, scene.now);
    }
    assert_eq!(scene.engine.recordings(), 1);
    let gone = scene.engine.read_recording(scene.now, unread.session, 0);
    assert_eq!(gone.expect_err("it has ended"), NoSession::Unknown);
    assert_eq!(scene.engine.stop_recording(scene.now, unread.session), Err(NoSession::Unknown));
    read.finish(&mut scene.engine, scene.now);
    // Once more asked for, the end is the end, and then the session is gone.
    assert!(read.read(&mut scene.engine, scene.now));
    assert_eq!(scene.engine.recordings(), 0);
}

#[test]
fn a_part_that_was_not_confirmed_can_be_read_again_and_one_that_was_cannot() {
    let (mut scene, flow) = Scene::promoted(Counters::Fast);
    let session = scene.engine.start_recording(scene.now, 0, BUFFER_BYTES_MAX).expect("the first session");
    scene.kernel.packets(flow, 10);
    scene.epoch();
    let now = scene.now;
    let mut read = |from| scene.engine.read_recording(now, session, from);
    let whole = read(0).expect("from the beginning");
    assert_eq!(read(0), Ok(whole.clone()));
    let rest = read(5).expect("the rest").bytes;
    assert_eq!(rest, whole.bytes[5..]);
    assert_eq!(read(4).expect_err("confirmed"), NoSession::OutOfReach);
    assert_eq!(read(10_000).expect_err("not there yet"), NoSession::OutOfReach);
    for _ in 1..SESSIONS_MAX {
        scene.engine.start_recording(now, 0, BUFFER_BYTES_MAX).expect("another session");
    }
    assert_eq!(scene.engine.start_recording(now, 0, BUFFER_BYTES_MAX), Err(NoSession::TooMany));
}

#[test]
fn what_is_recorded_goes_as_it_would_without() {
    // Recording only observes: the same seed comes to the same end with it.
    let plan = |seed| Plan {
        seed,
        steps: 300,
        counters: Counters::Exact,
        crashes: false,
        overruns: false,
        resurrects: false,
        reloads: true,
        units: false,
    };
    for seed in 0..200 {
        let run = |is_recorded: bool| {
            let mut run = Run::new(plan(seed));
            if is_recorded {
                run.engine.start_recording(run.now, 0, BUFFER_BYTES_MAX).expect("the first session");
            }
            (0..300).for_each(|_| run.step());
            run.come_to_rest();
            let status = run.engine.status(run.now);
            (status.totals, *status.tally, status.flows)
        };
        assert_eq!(run(true), run(false), "seed {seed}");
    }
}

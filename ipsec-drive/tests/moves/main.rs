//! Tunnels that compete for a NIC's entries, against a simulated charon, kernel and NIC.

mod world;

use std::collections::BTreeSet;

use ipsec_drive::{Carried, ConnectionName, EspId, Millis, Missed, Offload, Rank, Terms};
use world::{Sees, Takes, World};

const SEEDS: u64 = 3;
const ENTRIES: u32 = 8;
const TUNNELS: u8 = 32;
const HOUR: u64 = 3_600;

fn fixed() -> Terms {
    Terms { entries: Some(ENTRIES), ..Terms::default() }
}

/// Rates of a heavy-tailed kind: few move most, and many are slower than an entry is for.
fn draw(world: &mut World) {
    for name in world.names.clone() {
        let doublings = world.random.below(16);
        let rate = (20_000 << doublings) + world.random.below(20_000 << doublings);
        world.rates.insert(name, rate);
    }
}

#[test]
fn the_hottest_tunnels_end_up_in_the_nic_and_entries_are_never_exceeded() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, TUNNELS, fixed(), Offload::Auto);
        world.silent_percent = 10;
        for phase in 0..4 {
            draw(&mut world);
            let until = world.now + HOUR * 1_000;
            while world.now < until {
                world.pass();
                let within = world.in_nic().len();
                assert!(within <= ENTRIES as usize, "seed {seed}: {within} in the NIC at {} ms", world.now);
            }
            let (has, best) = world.share(ENTRIES as usize);
            assert!(has * 10 >= best * 9, "seed {seed}, phase {phase}: {has} of {best} bytes/s");
        }
        // Four draws, each of which may put all entries into other hands.
        let moves = world.mover.moves();
        let most = 4 * 2 * u64::from(ENTRIES);
        assert!(moves.to_nic + moves.to_software <= most, "seed {seed}: {moves:?}");
    }
}

#[test]
fn loads_that_stay_as_they_are_move_nobody() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, TUNNELS, fixed(), Offload::Auto);
        draw(&mut world);
        world.seconds(HOUR);
        assert_eq!(world.in_nic().len(), ENTRIES as usize, "seed {seed}: all entries are in use");
        let (moves, steps) = (world.mover.moves(), world.steps.clone());
        world.seconds(HOUR);
        assert_eq!((world.mover.moves(), &world.steps), (moves, &steps), "seed {seed}");
    }
}

#[test]
fn a_table_of_unknown_size_is_filled_with_the_hottest_and_its_refusals_are_few() {
    for seed in 0..2 {
        let mut world = World::new(seed, TUNNELS, Terms::default(), Offload::Auto);
        // Four security associations each.
        world.room = 4 * ENTRIES as usize;
        draw(&mut world);
        world.seconds(4 * HOUR);
        let (has, best) = world.share(ENTRIES as usize);
        assert!(has * 10 >= best * 8, "seed {seed}: {has} of {best} bytes/s");
        let missed = world.mover.moves().missed;
        world.seconds(2 * HOUR);
        let again = world.mover.moves().missed - missed;
        assert!(again <= 3, "seed {seed}: {again} tries in two hours");
    }
}

#[test]
fn a_nic_that_takes_nothing_is_asked_seldom_and_says_why() {
    let mut world = World::new(1, TUNNELS, Terms::default(), Offload::Auto);
    world.takes = Takes::Nothing;
    draw(&mut world);
    world.seconds(600);
    let first = world.initiations();
    world.seconds(8 * HOUR);
    let later = (world.initiations() - first) / 2;
    assert!(later <= 12, "{later} tries in eight hours");
    assert!(world.in_nic().is_empty());
    let connection = |name: &ConnectionName| &world.wanted.connections[name];
    let ranked: Vec<_> = world
        .names
        .iter()
        .filter_map(|name| world.mover.ranked(Millis(world.now), connection(name)))
        .collect();
    assert!(ranked.iter().any(|ranked| matches!(ranked.missed, Some((Missed::CameInSoftware, _)))));
    assert!(ranked.iter().all(|ranked| ranked.rank != Rank::Held));
}

#[test]
fn what_the_peer_makes_just_before_we_load_is_not_what_a_nic_was_asked_for() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, TUNNELS, fixed(), Offload::Auto);
        for phase in 0..4 {
            world.peer_is_first = world.names.iter().map(|name| (name.clone(), 1)).collect();
            draw(&mut world);
            world.seconds(HOUR);
            assert_eq!(
                world.mover.moves().missed,
                0,
                "seed {seed}, phase {phase}: the NIC took all it was asked"
            );
            // On the way out too: who is to leave does not stay with what the peer made in the NIC.
            let (has, best) = world.share(ENTRIES as usize);
            assert!(has * 10 >= best * 9, "seed {seed}, phase {phase}: {has} of {best} bytes/s");
            assert_eq!(world.in_nic().len(), ENTRIES as usize, "seed {seed}, phase {phase}");
        }
    }
}

#[test]
fn a_nic_that_takes_nothing_is_asked_seldom_though_the_peer_always_comes_first() {
    let mut world = World::new(1, TUNNELS, Terms::default(), Offload::Auto);
    world.takes = Takes::Nothing;
    world.peer_is_first = world.names.iter().map(|name| (name.clone(), u32::MAX)).collect();
    draw(&mut world);
    world.seconds(600);
    let first = world.initiations();
    world.seconds(8 * HOUR);
    let later = (world.initiations() - first) / 2;
    assert!((1..=24).contains(&later), "{later} negotiations in eight hours");
    assert!(world.mover.moves().missed > 0);
}

#[test]
fn what_is_told_to_have_mode_packet_has_it_though_the_peer_came_first() {
    let mut world = World::new(1, 2, fixed(), Offload::None);
    world.seconds(60);
    world.peer_is_first = world.names.iter().map(|name| (name.clone(), 1)).collect();
    world.wanted.connections.values_mut().for_each(|connection| connection.offload = Offload::Packet);
    world.seconds(60);
    assert!(world.kernel.values().all(|sa| sa.carried == Carried::Packet), "{:?}", world.kernel);
    let steps = world.steps.clone();
    world.seconds(600);
    assert_eq!(world.steps, steps, "once");
}

#[test]
fn what_does_not_come_up_with_mode_packet_has_crypto_and_packet_is_tried_again() {
    let mut world = World::new(1, 4, Terms::default(), Offload::Auto);
    world.takes = Takes::CryptoAlone;
    world.rates.values_mut().for_each(|rate| *rate = 10_000_000);
    world.seconds(600);
    assert_eq!(world.in_nic().len(), 4);
    assert!(world.kernel.values().all(|sa| sa.carried == Carried::Crypto));
    let tries = world.steps["initiate"];
    world.seconds(8 * HOUR);
    assert!(world.steps["initiate"] > tries, "packet is tried again");
    // Two to four children each that do not come up, and two that do, up to two hours apart.
    assert!(world.steps["initiate"] - tries <= 4 * 12 * 8, "{:?}", world.steps);
    world.takes = Takes::Everything;
    world.seconds(3 * HOUR);
    assert!(world.kernel.values().all(|sa| sa.carried == Carried::Packet), "{:?}", world.kernel);
}

/// After an hour, with what is in the NIC, which is something.
fn settled(seed: u64) -> (World, BTreeSet<ConnectionName>) {
    let mut world = World::new(seed, TUNNELS, fixed(), Offload::Auto);
    draw(&mut world);
    world.seconds(HOUR);
    let within = world.in_nic();
    assert!(!within.is_empty());
    (world, within)
}

#[test]
fn what_a_reset_nic_lost_is_negotiated_anew_and_comes_back_into_the_nic() {
    for seed in 0..SEEDS {
        let (mut world, within) = settled(seed);
        world.reset();
        assert!(world.in_nic().is_empty());
        world.seconds(60);
        assert_eq!(world.in_nic(), within, "seed {seed}");
        let all_there = world
            .children
            .iter()
            .flat_map(|child| child.ids())
            .flatten()
            .all(|id| world.kernel.contains_key(&id));
        assert!(all_there, "seed {seed}: something is still lost");
        assert_eq!(world.mover.moves().lost, 2 * within.len() as u64);
    }
}

#[test]
fn what_the_firmware_of_a_nic_lost_is_negotiated_anew_once_and_stays_in_the_nic() {
    for seed in 0..SEEDS {
        let (mut world, within) = settled(seed);
        let carried = |world: &World| -> Vec<EspId> {
            let carried = world.kernel.iter().filter(|(_, sa)| sa.carried > Carried::Software);
            carried.map(|(id, _)| *id).collect()
        };
        let lost = carried(&world);
        assert!(!lost.is_empty());
        world.firmware_resets();
        world.seconds(60);
        assert_eq!(world.in_nic(), within, "seed {seed}");
        assert!(carried(&world).iter().all(|id| !lost.contains(id)), "seed {seed}: one is used still");
        assert_eq!(world.mover.moves().lost, 2 * within.len() as u64);
    }
}

#[test]
fn before_the_kernel_has_been_read_nothing_is_asked_of_a_nic_and_where_it_cannot_be_charon_tries_the_most() {
    let mut world = World::new(1, TUNNELS, fixed(), Offload::Auto);
    world.sees = Sees::NothingBefore(5_000);
    draw(&mut world);
    world.seconds(60);
    assert!(world.in_nic().len() <= ENTRIES as usize, "{:?}", world.in_nic());
    world.seconds(HOUR);
    assert_eq!(world.in_nic().len(), ENTRIES as usize);
    let mut world = World::new(1, TUNNELS, fixed(), Offload::Auto);
    world.sees = Sees::Nothing;
    world.seconds(60);
    assert_eq!(world.in_nic().len(), usize::from(TUNNELS));
}

#[test]
fn what_is_told_to_have_nothing_of_a_nic_is_negotiated_anew_though_it_was_in_software() {
    let mut world = World::new(1, 2, fixed(), Offload::Auto);
    world.seconds(60);
    let before: Vec<u32> = world.children.iter().map(|child| child.id).collect();
    world.wanted.connections.values_mut().for_each(|connection| connection.offload = Offload::None);
    world.seconds(60);
    assert!(world.children.iter().all(|child| !before.contains(&child.id)), "{:?}", world.children);
    let steps = world.steps.clone();
    world.seconds(600);
    assert_eq!(world.steps, steps, "once");
}

#[test]
fn what_is_told_to_have_mode_packet_is_not_ranked_and_has_nothing_less() {
    let mut world = World::new(1, 4, fixed(), Offload::Packet);
    world.takes = Takes::Nothing;
    world.seconds(600);
    assert!(world.children.is_empty(), "{:?}", world.children);
    let connection = world.wanted.connections.values().next().unwrap();
    assert_eq!(world.mover.ranked(Millis(world.now), connection), None);
}

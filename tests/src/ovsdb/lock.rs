//! Locks between two clients.

use lab_tests::harness::{Lab, Outcome, ensure};
use ovsdb_client::{ErrorTag, Transaction};

use super::consumer::{block_on, config, synchronised, until_lock, until_lost, until_synchronised};
use super::server::Server;

pub(crate) fn a_lock_goes_from_one_client_to_the_other_and_can_be_stolen(lab: &mut Lab) -> Outcome {
    let server = Server::start(lab)?;
    block_on(async {
        let (first, mut first_watcher) = synchronised(config(server.remote())).await?;
        let (second, mut second_watcher) = synchronised(config(server.remote())).await?;
        let mut guarded = Transaction::new();
        guarded.assert_lock("l");
        guarded.comment("by the holder");

        first.lock("l").await?;
        until_lock(&mut first_watcher, true).await?;
        second.lock("l").await?;
        second.echo(&[0]).await?;
        first.transact(&guarded).await?;
        let refused = second.transact(&guarded).await;
        let tag = refused.as_ref().err().and_then(|error| error.server_error()).map(|error| &error.tag);
        ensure!(tag == Some(&ErrorTag::NotOwner), "the lock is not exclusive: {refused:?}");

        first.unlock("l").await?;
        until_lock(&mut first_watcher, false).await?;
        until_lock(&mut second_watcher, true).await?;
        second.transact(&guarded).await?;

        first.steal("l").await?;
        until_lock(&mut first_watcher, true).await?;
        until_lock(&mut second_watcher, false).await?;
        first.transact(&guarded).await?;

        // The thief goes without a word, and the victim, which still waits, gets the lock back.
        drop((first, first_watcher));
        until_lock(&mut second_watcher, true).await?;
        second.transact(&guarded).await?;
        Ok(())
    })
}

pub(crate) fn a_lock_is_asked_for_again_after_a_restart(lab: &mut Lab) -> Outcome {
    let mut server = Server::start(lab)?;
    block_on(async {
        let (client, mut watcher) = synchronised(config(server.remote())).await?;
        client.lock("l").await?;
        until_lock(&mut watcher, true).await?;
        server.kill()?;
        until_lost(&mut watcher).await?;
        until_lock(&mut watcher, false).await?;
        server.launch()?;
        until_synchronised(&mut watcher).await?;
        until_lock(&mut watcher, true).await
    })
}

use std::pin::pin;

use futures_util::poll;
use proptest::prelude::*;

use super::*;

fn party(client: u16, address: u16) -> Party {
    let [high, low] = address.to_be_bytes();
    Party {
        client: ClientId::new(&format!("client-{client}")).unwrap(),
        address: AddressKey::new([10, 0, high, low].into(), 64),
    }
}

/// The order of those who have joined, one at a time.
fn served(order: &mut Order, most: usize) -> Vec<u64> {
    let one = |_| {
        let next = order.start_next()?;
        order.ended(&next.party.client);
        Some(next.id)
    };
    (0..most).map_while(one).collect()
}

#[test]
fn a_newcomer_is_next_however_many_wait() {
    for (clients, addresses) in [(1, 1), (1, 100), (100, 1)] {
        let mut order = Order::new(usize::MAX);
        for id in 0..200 {
            order.join(id, party(id as u16 % clients, id as u16 % addresses), 50);
        }
        served(&mut order, 10);
        order.join(1_000, party(1_000, 1_000), 1);
        let next = served(&mut order, 2);
        assert!(next.contains(&1_000), "{clients} clients at {addresses} addresses: {next:?}");
    }
}

#[test]
fn work_is_shared_by_cost() {
    let mut order = Order::new(usize::MAX);
    for id in 0..100 {
        order.join(2 * id, party(1, 1), 5);
        order.join(2 * id + 1, party(2, 2), 1);
    }
    let first = served(&mut order, 60);
    let cheap = first.iter().filter(|id| *id % 2 == 1).count();
    // Of the turns that are not the oldest's, five in six are those of the client that costs a fifth.
    assert!((35..=48).contains(&cheap), "{cheap} of 60");
}

#[test]
fn a_client_has_only_so_many_places() {
    let mut order = Order::new(1);
    for id in 0..5 {
        order.join(id, party(1, id as u16), 1);
    }
    assert_eq!(order.start_next().map(|next| next.id), Some(0));
    assert!(order.start_next().is_none(), "the other place is for somebody else");
    order.join(9, party(2, 9), 1);
    assert_eq!(order.start_next().map(|next| next.id), Some(9));
    order.ended(&party(1, 0).client);
    assert_eq!(order.start_next().map(|next| next.id), Some(1));
}

#[test]
fn a_turn_that_was_not_used_costs_nothing() {
    let mut order = Order::new(usize::MAX);
    for id in 0..4 {
        order.join(id, party(id as u16 % 2, id as u16 % 2), 10);
    }
    let first = order.start_next().unwrap();
    order.refund(&first.party, first.cost);
    order.ended(&first.party.client);
    assert_eq!((first.id, served(&mut order, 3)), (0, vec![1, 2, 3]));
}

#[tokio::test]
async fn whoever_leaves_makes_room_and_a_turn_comes_back_by_itself() {
    let queue = FairQueue::new(0, 0);
    let first = queue.turn(party(1, 1), 1).await;
    let mut second = Box::pin(queue.turn(party(2, 2), 1));
    let mut third = pin!(queue.turn(party(3, 3), 1));
    assert!(poll!(second.as_mut()).is_pending() && poll!(third.as_mut()).is_pending());
    assert_eq!(queue.load(), (1, 2));
    drop(second);
    assert_eq!(queue.load(), (1, 1));
    drop(first);
    let third = third.await;
    assert_eq!(queue.load(), (1, 0));
    // One who leaves at the very moment of its turn passes it on.
    let mut fourth = Box::pin(queue.turn(party(4, 4), 1));
    let mut fifth = pin!(queue.turn(party(5, 5), 1));
    assert!(poll!(fourth.as_mut()).is_pending() && poll!(fifth.as_mut()).is_pending());
    third.unused();
    drop(fourth);
    drop(fifth.await);
    assert_eq!(queue.load(), (0, 0));
    let state = queue.0.lock();
    assert!(state.waiting.is_empty() && state.order.running_of.is_empty() && state.order.clients.0.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Join(u16, u16, u64),
    Leave(usize),
    Start,
    End(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u16..6, 0_u16..6, 0_u64..200).prop_map(|(client, address, cost)| Step::Join(client, address, cost)),
        1 => any::<usize>().prop_map(Step::Leave),
        3 => Just(Step::Start),
        3 => any::<usize>().prop_map(Step::End),
    ];
    proptest::collection::vec(step, 1..300)
}

proptest! {
    /// A place that is free is used, no client has more than its own, and nobody waits for ever.
    #[test]
    fn places_are_used_and_nobody_starves(steps in steps(), places in 1_usize..4, of_a_client in 1_usize..3) {
        let mut order = Order::new(of_a_client);
        let (mut running, mut waiting, mut next) = (Vec::<Waiting>::new(), Vec::<(u64, u64, usize)>::new(), 0);
        for step in steps {
            match step {
                Step::Join(client, address, cost) => {
                    order.join(next, party(client, address), cost);
                    waiting.push((next, order.turns, waiting.len()));
                    next += 1;
                }
                Step::Leave(at) if !waiting.is_empty() => {
                    let (id, ..) = waiting.remove(at % waiting.len());
                    order.leave(id);
                }
                Step::Start if running.len() < places => match order.start_next() {
                    Some(started) => {
                        let at = waiting.iter().position(|(id, ..)| *id == started.id).unwrap();
                        let (_, since, ahead) = waiting.remove(at);
                        let bound = OLDEST_FIRST * (ahead as u64 + 1);
                        prop_assert!(of_a_client < 2 || places > 1 || order.turns - since <= bound);
                        running.push(started);
                        let own = |client| running.iter().filter(|other| other.party.client == client).count();
                        let last = running.last().unwrap().party.client.clone();
                        prop_assert!(own(last) <= of_a_client);
                    }
                    None => {
                        let is_full = |waiting: &Waiting| {
                            running.iter().filter(|other| other.party.client == waiting.party.client).count() >= of_a_client
                        };
                        prop_assert!(order.waiting.iter().all(is_full), "somebody waits in vain");
                    }
                },
                Step::End(at) if !running.is_empty() => {
                    let ended = running.swap_remove(at % running.len());
                    order.ended(&ended.party.client);
                }
                _ => {}
            }
            prop_assert_eq!((order.running, order.waiting.len()), (running.len(), waiting.len()));
        }
    }

    /// One who comes with a client and an address that nobody has used is served within two turns, whatever one attacker with
    /// one address, or with one client, has queued and used before.
    #[test]
    fn a_newcomer_is_served_at_once(
        jobs in proptest::collection::vec((any::<u16>(), 1_u64..1_000), 3..200),
        one_client: bool,
        earlier in 1_usize..50,
    ) {
        let mut order = Order::new(usize::MAX);
        for (id, (key, cost)) in jobs.iter().enumerate() {
            let attacker = if one_client { party(0, key % 1_000) } else { party(key % 1_000, 0) };
            order.join(id as u64, attacker, *cost);
        }
        served(&mut order, earlier.min(jobs.len() - 2));
        order.join(10_000, party(5_000, 5_000), 500);
        prop_assert!(served(&mut order, 2).contains(&10_000));
    }

    /// Two clients that always have something waiting are served alike, by cost.
    #[test]
    fn clients_that_wait_are_served_alike(costs in (1_u64..50, 1_u64..50), turns in 50_usize..300) {
        let mut order = Order::new(usize::MAX);
        let (mut used, mut id) = ([0_u64; 2], 0);
        let mut join = |order: &mut Order, client: u16| {
            order.join(id, party(client, client), if client == 0 { costs.0 } else { costs.1 });
            id += 1;
        };
        (0..3).for_each(|_| { join(&mut order, 0); join(&mut order, 1); });
        for _ in 0..turns {
            let next = order.start_next().unwrap();
            order.ended(&next.party.client);
            let client = u16::from(next.party == party(1, 1));
            used[usize::from(client)] += next.cost;
            join(&mut order, client);
        }
        // The turns of the oldest may be anybody's; for the rest, nobody is ahead by more than the largest cost.
        let (most, least) = (used[0].max(used[1]), used[0].min(used[1]));
        let oldest = turns as u64 / OLDEST_FIRST + 1;
        prop_assert!(most - least <= 2 * costs.0.max(costs.1) * (oldest + 2), "{used:?}");
    }
}

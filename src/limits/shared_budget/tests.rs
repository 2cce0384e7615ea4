use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn owner(client: u8, service: u8, address: u8) -> Owner {
    Owner {
        client: ClientId::new(&format!("client-{client}")).unwrap(),
        service: Name::new(&format!("service-{service}")).unwrap(),
        address: AddressKey::new([192, 0, 2, address].into(), 64),
    }
}

/// A portion that has taken `bytes` piece by piece, as far as it got.
fn taken(budget: &SharedBudget, holder: Owner, bytes: usize) -> Portion {
    let mut portion = budget.portion(holder);
    let mut left = bytes;
    while left > 0 && portion.grow(left.min(10)) {
        left -= left.min(10);
    }
    portion
}

#[test]
fn a_portion_grows_shrinks_and_leaves_nothing_behind() {
    let budget = SharedBudget::new(100);
    let mut one = budget.portion(owner(1, 1, 1));
    let mut two = budget.clone().portion(owner(1, 1, 1));
    assert!(one.grow(40) && two.grow(30) && one.grow(20) && one.grow(0));
    assert_eq!(budget.in_use(), 90);
    assert!(!two.grow(20) && !two.grow(usize::MAX), "its own address would have to make room");
    one.shrink(50);
    assert_eq!(budget.in_use(), 40);
    assert!(two.grow(60));
    drop(two);
    one.shrink(usize::MAX);
    assert_eq!(budget.in_use(), 0);
    assert!(one.grow(100));
    drop(one);
    let pool = budget.0.lock();
    assert!(pool.clients.is_empty() && pool.addresses.is_empty() && pool.in_use == 0);
}

#[test]
fn a_single_holder_may_have_all_of_it() {
    let budget = SharedBudget::new(1_000);
    assert_eq!(budget.in_use(), 0);
    let all = taken(&budget, owner(1, 1, 1), 2_000);
    assert_eq!(budget.in_use(), 1_000);
    drop(all);
    assert!(!budget.portion(owner(1, 1, 1)).grow(1_001));
}

#[test]
fn an_uninvolved_client_finds_its_part_however_much_others_hold() {
    let budget = SharedBudget::new(1_000);
    // Two hundred addresses at four clients, two services each.
    let held: Vec<_> = (0..200).map(|number| taken(&budget, owner(number % 4, number % 2, number), 1_000)).collect();
    assert!(budget.in_use() > 990);
    let uninvolved = taken(&budget, owner(9, 1, 250), 200);
    assert_eq!(budget.0.lock().clients[&owner(9, 1, 250).client].bytes, 200, "a fifth of it");
    assert!(!uninvolved.evicted().is_cancelled() && held.iter().any(|portion| portion.evicted().is_cancelled()));
    // From an address that attacks others, too.
    let same_address = taken(&budget, owner(8, 1, 1), 150);
    assert_eq!(budget.0.lock().clients[&owner(8, 1, 1).client].bytes, 150);
    drop((held, uninvolved, same_address));
    assert_eq!(budget.in_use(), 0);
}

#[test]
fn the_address_that_holds_most_makes_room_for_another_one_of_the_same_service() {
    let budget = SharedBudget::new(1_000);
    let attackers: Vec<_> = (0..10).map(|_| taken(&budget, owner(1, 1, 1), 100)).collect();
    let sender = taken(&budget, owner(1, 1, 2), 300);
    assert!(!sender.evicted().is_cancelled());
    assert_eq!(attackers.iter().filter(|portion| portion.evicted().is_cancelled()).count(), 3);
    let mut late = budget.portion(owner(1, 1, 1));
    assert!(!late.grow(10), "its own address holds most");
}

#[test]
fn a_service_that_holds_less_than_its_neighbours_keeps_what_it_has() {
    let budget = SharedBudget::new(900);
    let small = taken(&budget, owner(1, 2, 1), 100);
    let large: Vec<_> = (0..8).map(|_| taken(&budget, owner(1, 1, 1), 100)).collect();
    let other = taken(&budget, owner(2, 1, 2), 450);
    assert_eq!(budget.0.lock().clients[&owner(2, 1, 2).client].bytes, 450);
    assert!(!small.evicted().is_cancelled() && !other.evicted().is_cancelled());
    assert!(large.iter().filter(|portion| portion.evicted().is_cancelled()).count() >= 4);
}

#[test]
fn what_was_evicted_takes_no_more_and_returns_nothing_twice() {
    let budget = SharedBudget::new(100);
    let mut evicted = taken(&budget, owner(1, 1, 1), 100);
    let mut other = budget.portion(owner(2, 1, 2));
    assert!(other.grow(50));
    assert!(evicted.evicted().is_cancelled() && !evicted.grow(1));
    evicted.shrink(10);
    drop(evicted);
    assert_eq!(budget.in_use(), 50);
}

#[test]
fn another_capacity_counts_from_the_next_byte_on() {
    let budget = SharedBudget::new(10);
    let mut portion = budget.portion(owner(1, 1, 1));
    assert!(portion.grow(10) && !portion.grow(1));
    budget.set_capacity(12);
    assert!(portion.grow(2) && !portion.grow(1));
    budget.set_capacity(5);
    assert_eq!(budget.in_use(), 12, "what is held stays held");
    drop(portion);
    assert!(!budget.portion(owner(1, 1, 1)).grow(6));
}

#[derive(Debug, Clone)]
enum Step {
    Begin(u8, u8, u8),
    Grow(usize, usize),
    Shrink(usize, usize),
    End(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u8..6, 0_u8..3, 0_u8..8).prop_map(|(client, service, address)| Step::Begin(client, service, address)),
        12 => (any::<usize>(), 1_usize..400).prop_map(|(at, bytes)| Step::Grow(at, bytes)),
        1 => (any::<usize>(), 1_usize..400).prop_map(|(at, bytes)| Step::Shrink(at, bytes)),
        1 => any::<usize>().prop_map(Step::End),
    ];
    proptest::collection::vec(step, 1..200)
}

/// What each client and each address holds, as the portions themselves have it.
type Totals = (BTreeMap<String, usize>, usize);

fn totals(portions: &[(Portion, usize)]) -> Totals {
    let mut of_client = BTreeMap::new();
    let mut all = 0;
    for (portion, bytes) in portions.iter().filter(|(portion, _)| !portion.evicted.is_cancelled()) {
        *of_client.entry(portion.holder.client.to_string()).or_default() += bytes;
        all += bytes;
    }
    of_client.retain(|_, bytes| *bytes > 0);
    (of_client, all)
}

const CAPACITY: usize = 1_000;

proptest! {
    /// Whatever others do, a client that stays within an equal part is never refused, and loses nothing.
    #[test]
    fn a_client_within_its_part_is_neither_refused_nor_evicted(steps in steps()) {
        let budget = SharedBudget::new(CAPACITY);
        let mut portions: Vec<(Portion, usize)> = Vec::new();
        for step in steps {
            let count = portions.len();
            match step {
                Step::Begin(client, service, address) => {
                    portions.push((budget.portion(owner(client, service, address)), 0));
                }
                Step::Grow(at, bytes) if count > 0 => {
                    let at = at % count;
                    let (before, _) = totals(&portions);
                    let gone: Vec<bool> = portions.iter().map(|(portion, _)| portion.evicted.is_cancelled()).collect();
                    let client = portions[at].0.holder.client.to_string();
                    let clients = before.len() + usize::from(!before.contains_key(&client));
                    let wanted = before.get(&client).copied().unwrap_or_default() + bytes;
                    let has_grown = portions[at].0.grow(bytes);
                    if has_grown {
                        portions[at].1 += bytes;
                    }
                    prop_assert!(has_grown || gone[at] || wanted * clients > CAPACITY);
                    for ((portion, _), was_gone) in portions.iter().zip(gone) {
                        if portion.evicted.is_cancelled() && !was_gone {
                            // A client that asks for more than its part may have to make room for itself.
                            let of = portion.holder.client.to_string();
                            let held = before[&of] + if of == client { bytes } else { 0 };
                            prop_assert!(held * clients > CAPACITY, "{held} of {clients} clients was evicted");
                        }
                    }
                }
                Step::Shrink(at, bytes) if count > 0 => {
                    let (portion, held) = &mut portions[at % count];
                    portion.shrink(bytes);
                    *held = held.saturating_sub(bytes);
                }
                Step::End(at) if count > 0 => drop(portions.swap_remove(at % count)),
                _ => {}
            }
            let (_, all) = totals(&portions);
            prop_assert!(all <= CAPACITY);
            prop_assert_eq!(budget.in_use(), all);
        }
        drop(portions);
        let pool = budget.0.lock();
        prop_assert!(pool.clients.is_empty() && pool.addresses.is_empty());
    }

    /// An address of which no portion is among the largest holders' finds room at a client that is attacked from others.
    #[test]
    fn an_attacked_client_still_hears_an_address_that_holds_less(attackers in 1_u8..100, wanted in 1_usize..10) {
        let budget = SharedBudget::new(CAPACITY);
        let held: Vec<_> = (0..attackers).map(|address| taken(&budget, owner(1, 1, address), CAPACITY)).collect();
        let mut sender = budget.portion(owner(1, 1, 200));
        prop_assert!(sender.grow(wanted.min(CAPACITY / (usize::from(attackers) + 1))));
        drop(held);
    }
}

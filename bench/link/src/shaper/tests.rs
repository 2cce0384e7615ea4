use super::*;

const MS: Duration = Duration::from_millis(1);

/// 1,000 bytes take a millisecond.
const SLOW: f64 = 8e6;

fn packet(number: u16) -> Vec<u8> {
    let mut packet = vec![0; 1000];
    packet[..2].copy_from_slice(&number.to_be_bytes());
    packet
}

fn numbers(shaper: &mut Shaper, now: Instant) -> Vec<u16> {
    std::iter::from_fn(|| shaper.pop(now)).map(|packet| u16::from_be_bytes([packet[0], packet[1]])).collect()
}

fn filled(shape: Shape, count: u16) -> (Shaper, Instant) {
    let (mut shaper, now) = (Shaper::new(shape), Instant::now());
    (0..count).for_each(|number| shaper.push(now, packet(number)));
    (shaper, now)
}

#[test]
fn without_a_shape_everything_comes_at_once() {
    let (mut shaper, now) = filled(Shape { queue: usize::MAX, ..Shape::default() }, 500);
    assert_eq!(numbers(&mut shaper, now), (0..500).collect::<Vec<_>>());
    assert_eq!(shaper.next_due(), None);
}

#[test]
fn each_packet_takes_its_time_and_then_the_delay() {
    let (mut shaper, now) = filled(Shape { rate: SLOW, delay: 10 * MS, ..Shape::default() }, 5);
    assert_eq!(numbers(&mut shaper, now + 10 * MS), []);
    for number in 0..5 {
        let due = now + (11 + u32::from(number)) * MS;
        assert_eq!(numbers(&mut shaper, due - MS / 10), []);
        assert_eq!(numbers(&mut shaper, due), [number]);
    }
}

#[test]
fn somebody_who_looks_late_finds_the_same() {
    let (mut shaper, now) = filled(Shape { rate: SLOW, delay: 10 * MS, ..Shape::default() }, 100);
    assert_eq!(numbers(&mut shaper, now + 60 * MS).len(), 50);
    assert_eq!(numbers(&mut shaper, now + 110 * MS).len(), 50);
}

#[test]
fn whoever_waits_until_it_is_due_misses_nothing() {
    let (mut shaper, now) = filled(Shape { rate: SLOW, delay: 3 * MS, ..Shape::default() }, 20);
    let (mut at, mut seen) = (now, Vec::new());
    while let Some(due) = shaper.next_due() {
        at = at.max(due);
        seen.extend(numbers(&mut shaper, at));
    }
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
    assert_eq!(at, now + 23 * MS);
}

#[test]
fn an_idle_link_saves_nothing_up() {
    let (mut shaper, now) = filled(Shape { rate: SLOW, ..Shape::default() }, 1);
    assert_eq!(numbers(&mut shaper, now + 1000 * MS), [0]);
    shaper.push(now + 2000 * MS, packet(1));
    assert_eq!(numbers(&mut shaper, now + 2000 * MS), []);
    assert_eq!(numbers(&mut shaper, now + 2001 * MS), [1]);
}

#[test]
fn a_full_queue_drops() {
    let (mut shaper, now) = filled(Shape { rate: SLOW, queue: 10_000, ..Shape::default() }, 100);
    // One is on its way, ten wait.
    assert_eq!(numbers(&mut shaper, now + 1000 * MS).len(), 11);
}

#[test]
fn loss_is_the_share_that_was_asked_for() {
    let (mut shaper, now) = filled(Shape { loss: 0.1, queue: usize::MAX, ..Shape::default() }, 10_000);
    let left = numbers(&mut shaper, now).len();
    assert!((8_800..9_200).contains(&left), "{left} of 10,000 came");
}

#[test]
fn what_overtakes_comes_early_and_nothing_is_lost() {
    let shape = Shape { delay: 10 * MS, reorder: 0.2, queue: usize::MAX, ..Shape::default() };
    let (mut shaper, now) = filled(shape, 1000);
    let early = numbers(&mut shaper, now).len();
    assert!((100..300).contains(&early), "{early} of 1,000 overtook");
    assert_eq!(numbers(&mut shaper, now + 10 * MS).len(), 1000 - early);
}

#[test]
fn a_cut_swallows_what_is_on_its_way_too() {
    let shape = Shape { delay: 10 * MS, ..Shape::default() };
    let (mut shaper, now) = filled(shape, 10);
    shaper.set(Shape { cut: true, ..shape });
    shaper.push(now, packet(10));
    assert_eq!(numbers(&mut shaper, now + 20 * MS), []);
    shaper.set(shape);
    shaper.push(now + 20 * MS, packet(11));
    assert_eq!(numbers(&mut shaper, now + 30 * MS), [11]);
}

#[test]
fn another_delay_counts_for_what_comes_then() {
    let shape = Shape { delay: 10 * MS, ..Shape::default() };
    let (mut shaper, now) = filled(shape, 1);
    // It leaves as soon as somebody looks.
    assert_eq!(numbers(&mut shaper, now), []);
    shaper.set(Shape { delay: 50 * MS, ..shape });
    shaper.push(now + MS, packet(1));
    assert_eq!(numbers(&mut shaper, now + 10 * MS), [0]);
    assert_eq!(numbers(&mut shaper, now + 50 * MS), []);
    assert_eq!(numbers(&mut shaper, now + 51 * MS), [1]);
}

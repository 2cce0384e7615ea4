//! Commands, as a person or a program types them.

use std::time::Duration;

use crate::shaper::Shape;

/// What both directions are like.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Directions {
    pub(crate) to_left: Shape,
    pub(crate) to_right: Shape,
}

/// Does what a line says.
///
/// # Errors
/// What is wrong with it; then nothing has changed.
pub(crate) fn obey(line: &str, both: &mut Directions) -> Result<(), String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let (left, right) = match words.first() {
        Some(&"left") => (true, false),
        Some(&"right") => (false, true),
        _ => (true, true),
    };
    if left != right {
        words.remove(0);
    }
    let mut wanted = *both;
    if left {
        change(&words, &mut wanted.to_left)?;
    }
    if right {
        change(&words, &mut wanted.to_right)?;
    }
    *both = wanted;
    Ok(())
}

fn change(words: &[&str], shape: &mut Shape) -> Result<(), String> {
    match *words {
        ["rate", mbit] => shape.rate = number(mbit, 1e6)? * 1e6,
        ["delay", ms] => shape.delay = Duration::from_secs_f64(number(ms, 60_000.0)? / 1e3),
        ["queue", kilobytes] => shape.queue = (number(kilobytes, 1e6)? * 1e3) as usize,
        ["loss", percent] => shape.loss = number(percent, 100.0)? / 100.0,
        ["reorder", percent] => shape.reorder = number(percent, 100.0)? / 100.0,
        ["fair", word] => shape.fair = switch(word)?,
        ["cut", word] => shape.cut = switch(word)?,
        ["reset"] => *shape = Shape::default(),
        _ => return Err(format!("not a command: {}", words.join(" "))),
    }
    Ok(())
}

fn number(word: &str, most: f64) -> Result<f64, String> {
    match word.parse::<f64>() {
        Ok(number) if (0.0..=most).contains(&number) => Ok(number),
        _ => Err(format!("not a number from 0 to {most}: {word}")),
    }
}

fn switch(word: &str) -> Result<bool, String> {
    match word {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("neither on nor off: {word}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_or_one() {
        let mut both = Directions::default();
        obey("rate 100", &mut both).unwrap();
        obey("left delay 2.5", &mut both).unwrap();
        obey("right fair on", &mut both).unwrap();
        let rate = 100e6;
        assert_eq!(both.to_left, Shape { rate, delay: Duration::from_micros(2500), ..Shape::default() });
        assert_eq!(both.to_right, Shape { rate, fair: true, ..Shape::default() });
        obey("reset", &mut both).unwrap();
        assert_eq!(both, Directions::default());
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut both = Directions::default();
        for line in
            ["", "left", "rate", "rate x", "rate -1", "rate NaN", "loss 101", "fair maybe", "rate 1 2", "up rate 1"]
        {
            assert!(obey(line, &mut both).is_err(), "{line:?} was taken");
        }
        assert_eq!(both, Directions::default());
    }
}

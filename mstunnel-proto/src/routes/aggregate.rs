//! Fewer rules with the same meaning.
//!
//! Three steps, none of which changes the verdict of any address:
//!
//! 1. one action a prefix: an exclude replaces an include of the same prefix (the tie rule);
//! 2. a rule inside a rule of the same action, or that says what the default says, goes;
//! 3. two halves of a prefix with one action become that prefix, replacing a rule of the whole, which
//!    the halves had hidden. Never up to length 0: no rule covers a whole family.
//!
//! Step 2 runs once more for the prefixes that step 3 made. Aggregating each list by itself, as is
//! often done, would change meanings: include 10.0.0.0/9 and 10.128.0.0/9 beat exclude 10.0.0.0/8, but
//! their union ties with it and loses.

use std::collections::BTreeMap;

use super::{Action, Route};
use crate::prefix::Prefix;

/// Aggregates both lists, with `default` for what no rule matches.
///
/// The answer is sorted by address, a prefix before those inside it. O(n log n).
pub(super) fn aggregate(include: &[Prefix], exclude: &[Prefix], default: Action) -> Vec<Route> {
    let mut rules = BTreeMap::new();
    rules.extend(include.iter().map(|&prefix| (prefix, Action::Include)));
    rules.extend(exclude.iter().map(|&prefix| (prefix, Action::Exclude)));
    let mut rules = without_redundant(rules, default);
    join_halves(&mut rules);
    let rules = without_redundant(rules, default);
    rules.into_iter().map(|(prefix, action)| Route { prefix, action }).collect()
}

/// Leaves out rules that repeat the rule around them.
fn without_redundant(rules: BTreeMap<Prefix, Action>, default: Action) -> BTreeMap<Prefix, Action> {
    let mut around: Vec<(Prefix, Action)> = Vec::new();
    rules
        .into_iter()
        .filter(|&(prefix, action)| {
            while around.pop_if(|(outer, _)| !outer.contains(prefix.network())).is_some() {}
            let outer = around.last().map_or(default, |&(_, action)| action);
            if outer != action {
                around.push((prefix, action));
            }
            outer != action
        })
        .collect()
}

/// Joins halves of one action into their whole, the longest prefixes first.
fn join_halves(rules: &mut BTreeMap<Prefix, Action>) {
    let mut by_length: Vec<Vec<Prefix>> = vec![Vec::new(); 129];
    for prefix in rules.keys() {
        by_length[usize::from(prefix.length())].push(*prefix);
    }
    for length in (2..by_length.len()).rev() {
        for prefix in std::mem::take(&mut by_length[length]) {
            let Some((whole, [left, right])) = halves_around(prefix) else { continue };
            match (rules.get(&left).copied(), rules.get(&right).copied()) {
                (Some(action), Some(other)) if action == other => {
                    rules.remove(&left);
                    rules.remove(&right);
                    rules.insert(whole, action);
                    by_length[length - 1].push(whole);
                }
                _ => {}
            }
        }
    }
}

/// The prefix one bit shorter than `prefix`, and its two halves; one of them is `prefix`.
fn halves_around(prefix: Prefix) -> Option<(Prefix, [Prefix; 2])> {
    let shorter = prefix.length().checked_sub(1)?;
    let whole = Prefix::new(prefix.network(), shorter).ok()?;
    let left = Prefix::new(whole.network(), prefix.length()).ok()?;
    let right = Prefix::new(whole.last(), prefix.length()).ok()?;
    Some((whole, [left, right]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregated(include: &[&str], exclude: &[&str]) -> Vec<String> {
        let parse = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<Prefix>>();
        aggregate(&parse(include), &parse(exclude), Action::Exclude)
            .into_iter()
            .map(|route| format!("{:?} {}", route.action, route.prefix))
            .collect()
    }

    #[test]
    fn duplicates_neighbours_and_nested_rules_are_one() {
        let include = ["10.0.0.0/9", "10.128.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "10.1.2.3"];
        assert_eq!(aggregated(&include, &[]), ["Include 10.0.0.0/8"]);
    }

    #[test]
    fn a_nested_rule_stays_when_the_other_action_lies_between() {
        assert_eq!(
            aggregated(&["10.0.0.0/8", "10.1.1.0/24"], &["10.1.0.0/16"]),
            ["Include 10.0.0.0/8", "Exclude 10.1.0.0/16", "Include 10.1.1.0/24"]
        );
    }

    #[test]
    fn two_halves_hide_the_rule_of_their_whole() {
        assert_eq!(aggregated(&["10.0.0.0/9", "10.128.0.0/9"], &["10.0.0.0/8"]), ["Include 10.0.0.0/8"]);
        assert_eq!(aggregated(&["10.0.0.0/8"], &["10.0.0.0/9", "10.128.0.0/9"]), [""; 0]);
    }

    #[test]
    fn neighbours_that_are_not_halves_of_one_prefix_stay_apart() {
        let include = ["10.1.0.0/16", "10.2.0.0/16"];
        assert_eq!(aggregated(&include, &[]), ["Include 10.1.0.0/16", "Include 10.2.0.0/16"]);
    }

    #[test]
    fn an_exclude_outside_every_include_says_nothing_new() {
        assert_eq!(aggregated(&["fd00::/8"], &["192.168.0.0/16"]), ["Include fd00::/8"]);
    }

    #[test]
    fn halves_are_never_joined_into_a_whole_family() {
        assert_eq!(aggregated(&["::/1", "8000::/2", "c000::/2"], &[]), ["Include ::/1", "Include 8000::/1"]);
    }
}

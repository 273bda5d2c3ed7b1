//! A page of a listing that is filled in rounds: names that turn out to be gone make room for those after them.

use onggi_object_model::listing::Named;
use onggi_object_model::{Listing, ListingEntry, ListingQuery};
use std::collections::HashSet;

/// Names of one page that are looked up one by one, when replicas do not agree about them.
const DOUBTS_MAX: usize = 1_000;
/// Rounds for one page. With [`REFILL_LINES_MIN`] lines each they use up [`DOUBTS_MAX`] before they end, and names that
/// are not looked up are shown: a page is never empty while there is something to list.
const ROUNDS_MAX: usize = 8;
/// Lines a later round asks for at least, so that a small page does not take many.
const REFILL_LINES_MIN: usize = 256;

const _: () = assert!((ROUNDS_MAX - 1) * REFILL_LINES_MIN > DOUBTS_MAX);

/// The page so far.
pub(crate) struct Filling<T> {
    query: ListingQuery,
    limit: usize,
    page: Listing<T>,
    rounds: usize,
    doubts_left: usize,
}

impl<T: Named> Filling<T> {
    /// An empty page for a client's query.
    pub(crate) fn new(query: ListingQuery) -> Self {
        Self {
            limit: query.limit,
            query,
            page: Listing::default(),
            rounds: 0,
            doubts_left: DOUBTS_MAX,
        }
    }

    /// What to ask the replicas now.
    pub(crate) const fn query(&self) -> &ListingQuery {
        &self.query
    }

    /// Which of a round's doubtful names are to be looked up.
    pub(crate) fn doubts(&mut self, mut doubtful: Vec<String>) -> Vec<String> {
        doubtful.truncate(self.doubts_left);
        self.doubts_left -= doubtful.len();
        doubtful
    }

    /// Takes a round's merged lines but those that are gone. True when another round is to be asked.
    pub(crate) fn add(&mut self, round: Listing<T>, gone: &HashSet<String>) -> bool {
        // Fewer lines than asked for are all there are: no replica's page was full.
        let is_cut = round.entries.len() >= self.query.limit;
        let last = round.names().last().map(str::to_owned);
        let there = round.entries.into_iter().filter(|entry| match entry {
            ListingEntry::Item(item) => !gone.contains(item.name()),
            ListingEntry::Subdir(_) => true,
        });
        self.page.entries.extend(there);
        self.page.entries.truncate(self.limit);
        self.rounds += 1;
        let missing = self.limit - self.page.entries.len();
        // As many merged lines as were asked for end at or before the end of every full page: going on there skips none.
        match last {
            Some(last) if is_cut && missing > 0 && self.rounds < ROUNDS_MAX => {
                self.query.marker = last;
                self.query.limit = missing.max(REFILL_LINES_MIN);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The page.
    pub(crate) fn into_page(self) -> Listing<T> {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::Timestamp;
    use onggi_object_model::AccountEntry;
    use onggi_object_replica::merge;

    fn line(name: &str) -> ListingEntry<AccountEntry> {
        ListingEntry::Item(AccountEntry {
            name: name.to_owned(),
            count: 0,
            bytes: 0,
            last_modified: Timestamp::ZERO,
            policy: None,
        })
    }

    /// What a replica that has these names answers.
    fn ask(names: &[String], query: &ListingQuery) -> Listing<AccountEntry> {
        let past = |name: &&String| {
            query.marker.is_empty()
                || if query.reverse {
                    **name < query.marker
                } else {
                    **name > query.marker
                }
        };
        let mut names: Vec<&String> = names.iter().filter(past).collect();
        names.sort();
        if query.reverse {
            names.reverse();
        }
        let names = names.into_iter().take(query.limit);
        Listing {
            entries: names.map(|name| line(name)).collect(),
        }
    }

    /// Fills a page from a replica that is right and one that lists `dead` names too; also says how many rounds it took.
    fn fill(query: ListingQuery, live: &[String], dead: &[String]) -> (Vec<String>, usize) {
        let stale = [live, dead].concat();
        let mut filling = Filling::new(query);
        loop {
            let query = filling.query();
            let pages = vec![ask(live, query), ask(&stale, query)];
            let merged = merge::listings(pages, query.limit, query.reverse);
            let doubts = filling.doubts(merged.doubtful);
            let gone = doubts.into_iter().filter(|name| dead.contains(name));
            if !filling.add(merged.page, &gone.collect()) {
                let rounds = filling.rounds;
                let page = filling.into_page();
                return (page.names().map(str::to_owned).collect(), rounds);
            }
        }
    }

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{prefix}{n:05}")).collect()
    }

    #[test]
    fn names_that_are_gone_make_room_for_those_after_them() {
        let (live, dead) = (names("b", 20), names("a", 10));
        let (page, rounds) = fill(ListingQuery::page(10), &live, &dead);
        assert_eq!((page.as_slice(), rounds), (&live[..10], 2));
        assert_eq!(fill(ListingQuery::page(100), &live, &dead), (live, 1));
        let reversed = ListingQuery {
            reverse: true,
            ..ListingQuery::page(2)
        };
        let (page, _) = fill(reversed, &names("a", 3), &names("b", 5));
        assert_eq!(page, ["a00002", "a00001"]);
    }

    #[test]
    fn agreeing_replicas_are_asked_once_and_nothing_is_asked_past_the_end() {
        let live = names("a", 5);
        for limit in [0, 1, 5, 6] {
            let (page, rounds) = fill(ListingQuery::page(limit), &live, &[]);
            assert_eq!((page.len(), rounds), (limit.min(5), 1));
        }
        assert_eq!(
            fill(ListingQuery::page(1), &[], &names("a", 600)).0,
            Vec::<String>::new()
        );
    }

    #[test]
    fn rounds_and_lookups_are_bounded_and_the_page_is_never_empty_before_the_end() {
        let (live, dead) = (names("b", 1), names("a", 5_000));
        for limit in [1, 10, 1_000] {
            let (page, rounds) = fill(ListingQuery::page(limit), &live, &dead);
            assert!(!page.is_empty() && rounds <= ROUNDS_MAX, "{limit}");
        }
    }
}

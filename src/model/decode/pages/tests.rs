use super::*;

fn pages(blocks: usize) -> Pages {
    Pages::new(4, blocks)
}

/// A table of all of `tokens`, computed as far as they were not there.
fn fill(pages: &mut Pages, lane: u32, tokens: &[u32]) -> Table {
    let mut table = pages.open(lane, tokens);
    let from = table.len();
    pages.grow(&mut table, tokens.len()).unwrap();
    pages.extend(&mut table, &tokens[from..]);
    table
}

/// What the tree says of itself must be true.
fn check(pages: &Pages) {
    let mut unused = 0;
    for (id, node) in pages.nodes.iter().enumerate() {
        let id = id as u32;
        if pages.free.contains(&id) || id as usize >= pages.max {
            assert!(node.users == 0 && node.tokens.is_empty() && node.children.is_empty());
            continue;
        }
        unused += usize::from(node.users == 0);
        let end = node.users == 0 && node.children.is_empty();
        assert_eq!(pages.ends.contains(&(node.used, id)), end, "block {id}");
        let siblings = match node.parent {
            Some(parent) => &pages.nodes[parent as usize].children,
            None => &pages.roots[&node.lane],
        };
        assert!(siblings.contains(&id));
        for child in &node.children {
            assert_eq!(pages.nodes[*child as usize].parent, Some(id));
            assert!(pages.nodes[*child as usize].users <= node.users);
        }
    }
    assert_eq!(pages.unused, unused);
}

#[test]
fn who_begins_alike_shares_whole_blocks_and_copies_the_rest() {
    let mut pages = pages(8);
    let a = fill(&mut pages, 0, &[1, 2, 3, 4, 5, 6, 7]);
    let b = pages.open(0, &[1, 2, 3, 4, 5, 6, 9, 9]);
    assert_eq!((b.len(), b.blocks()[0], b.blocks().len()), (6, a.blocks()[0], 2));
    assert_ne!(a.blocks()[1], b.blocks()[1]);
    // The last token is always left to be computed.
    assert_eq!(pages.open(0, &[1, 2, 3, 4]).len(), 3);
    assert_eq!(pages.known(0, &[1, 2, 3, 4]), 4);
    assert_eq!(pages.open(1, &[1, 2, 3, 4, 5]).len(), 0, "another adapter's keys and values are others");
    assert_eq!(pages.open(0, &[]).len(), 0);
    check(&pages);
}

#[test]
fn the_least_recently_used_end_goes_first_and_used_ones_stay() {
    let mut pages = pages(4);
    let a = fill(&mut pages, 0, &[1, 2, 3, 4, 5]);
    let b = fill(&mut pages, 0, &[1, 2, 3, 4, 6]);
    let c = fill(&mut pages, 0, &[9]);
    assert_eq!(pages.available(), 0);
    let mut d = pages.open(0, &[7, 7]);
    assert_eq!(pages.grow(&mut d, 1), Err(Full));
    pages.close(b);
    pages.close(a);
    check(&pages);
    assert_eq!(pages.available(), 3);
    // The one block that `b` had alone goes, then what `a` had alone, then what both had.
    pages.grow(&mut d, 4).unwrap();
    assert_eq!((pages.known(0, &[1, 2, 3, 4, 6]), pages.known(0, &[1, 2, 3, 4, 5])), (4, 5));
    pages.grow(&mut d, 8).unwrap();
    assert_eq!(pages.known(0, &[1, 2, 3, 4, 5]), 4);
    pages.grow(&mut d, 12).unwrap();
    assert_eq!(pages.known(0, &[1, 2, 3, 4, 5]), 0);
    assert_eq!(pages.grow(&mut d, 13), Err(Full));
    check(&pages);
    pages.close(c);
    pages.close(d);
    check(&pages);
    // What was never computed is free at once, not kept.
    assert_eq!((pages.available(), pages.free.len()), (4, 3));
}

#[test]
fn an_adapter_that_is_gone_leaves_nothing() {
    let mut pages = pages(8);
    let (a, b) = (fill(&mut pages, 3, &[1, 2, 3, 4, 5]), fill(&mut pages, 0, &[1, 2, 3, 4, 5]));
    pages.close(a);
    pages.close(b);
    pages.forget(3);
    assert_eq!((pages.known(3, &[1, 2]), pages.known(0, &[1, 2])), (0, 2));
    check(&pages);
}

proptest::proptest! {
    #[test]
    fn whatever_comes_and_goes_the_tree_is_whole(
        steps in proptest::collection::vec(
            (0_u8..4, proptest::collection::vec(1_u32..3, 1..18), 0_u32..2), 1..60)
    ) {
        let mut pages = pages(6);
        let mut open: Vec<Table> = Vec::new();
        for (what, tokens, lane) in steps {
            match what {
                0 if !open.is_empty() => {
                    let table = open.remove(tokens.len() % open.len());
                    pages.close(table);
                }
                _ => {
                    let mut table = pages.open(lane, &tokens);
                    assert!(table.len() < tokens.len());
                    let from = table.len();
                    if pages.grow(&mut table, tokens.len()).is_ok() {
                        pages.extend(&mut table, &tokens[from..]);
                    }
                    open.push(table);
                }
            }
            check(&pages);
        }
        for table in open {
            pages.close(table);
        }
        check(&pages);
        assert_eq!(pages.available(), 6);
    }
}

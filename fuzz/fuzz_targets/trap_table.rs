//! Any bytes are an error or a sorted table inside the text, which says what a walk over it says and encodes to the
//! very same bytes; and any list of sites is accepted exactly when it is sorted and inside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trapline::TrapCode;
use trapline::image::TrapTable;

fuzz_target!(|data: &[u8]| {
    let Some((&[len], data)) = data.split_first_chunk() else {
        return;
    };
    let text_len = usize::from(len) * 64;

    if let Ok(table) = TrapTable::parse(data, text_len) {
        assert_eq!(table.as_bytes(), data);
        assert_eq!(TrapTable::from_sorted(table.iter(), text_len).expect("already checked"), table);
        check(&table, text_len);
    }

    let sites: Vec<(usize, TrapCode)> = data
        .as_chunks()
        .0
        .iter()
        .filter_map(|&[low, high, code]| Some((usize::from(u16::from_le_bytes([low, high])), TrapCode::from_u8(code)?)))
        .collect();
    let sound = sites.is_sorted_by(|a, b| a.0 < b.0) && sites.iter().all(|site| site.0 < text_len);
    match TrapTable::from_sorted(sites.iter().copied(), text_len) {
        Ok(table) => {
            assert!(sound);
            assert!(table.iter().eq(sites));
            assert_eq!(TrapTable::parse(table.as_bytes(), text_len).expect("as encoded"), table);
            check(&table, text_len);
        }
        Err(_) => assert!(!sound),
    }
});

fn check(table: &TrapTable, text_len: usize) {
    assert_eq!(table.iter().count(), table.len());
    assert!(table.iter().all(|(offset, code)| offset < text_len && table.get(offset) == Some(code)));
    assert!(table.iter().is_sorted_by(|a, b| a.0 < b.0));
    let mut sites = table.iter().peekable();
    for offset in 0..text_len + 2 {
        let site = sites.next_if(|site| site.0 == offset);
        assert_eq!(table.get(offset), site.map(|site| site.1));
    }
    assert_eq!(table.get(u32::MAX as usize), None);
}

//! docs/isa.md is what its sources give.

#[test]
fn page_is_fresh() {
    let page = softmetal_oracle::isa::page();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/isa.md");
    let there = std::fs::read_to_string(path).expect("docs/isa.md is there");
    assert!(page == there, "docs/isa.md is stale: cargo run -p softmetal-oracle -- --isa docs/isa.md");
}

use softmetal_machine::host::catalog::*;
fn main() {
    let c = Catalog::new(std::env::args().any(|a| a == "--offline")).unwrap();
    let name = std::env::args().nth(1).unwrap();
    if name == "list" {
        for e in c.entries() {
            println!("{e:?}");
        }
        return;
    }
    match c.fetch(&name, &mut |s| eprintln!("... {s}")) {
        Ok(f) => {
            println!("{f:?}");
            let v = extract_vmlinux(&std::fs::read(&f.kernel).unwrap()).unwrap();
            println!("vmlinux {} bytes", v.len());
            if let Some(x) = std::env::args().nth(2).filter(|x| !x.starts_with('-')) {
                println!("OVERLAY {}", c.initrd_with(&name, x.as_ref(), &mut |s| eprintln!("... {s}")).unwrap().display());
            }
        }
        Err(e) => {
            eprintln!("softmetal: {e}");
            std::process::exit(2)
        }
    }
}

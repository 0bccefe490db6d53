//! What QEMU does wrong where it emulates a processor.
//!
//! The kernel patches its own code while other processors run it: a breakpoint (`int3`, 0xcc) goes over the first byte, the rest is
//! written, then the first byte (`text_poke_bp_batch()` of arch/x86/kernel/alternative.c). With more than one emulated processor,
//! QEMU 7.2 at times runs the breakpoint after it is gone, which nobody expects any more: `Oops: int3`.

/// Whether a guest's kernel, by what it said on its console, first died of a breakpoint that was not in its memory.
pub(crate) fn ran_what_was_patched_away(console: &str) -> bool {
    let mut oops = console.lines().skip_while(|line| !line.contains("Oops:"));
    if !oops.next().is_some_and(|line| line.contains("Oops: int3:")) {
        return false;
    }
    let code = oops.find_map(|line| line.split_once("Code: ")).map_or("", |(_, code)| code);
    let before = code.split_once(" <").map(|(before, _)| before);
    // What is marked is behind the breakpoint.
    before.and_then(|before| before.rsplit(' ').next()).is_some_and(|byte| byte.len() == 2 && byte != "cc")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
[    2.395759] amd_pstate: the _CPC object is not present in SBIOS or ACPI disabled
[   61.879642] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI
[   61.880559] RIP: 0010:inet_ehashfn+0x33/0x120
[   61.880896] Code: 41 57 41 56 49 89 fe 65 4c 89 6c 24 08 45 89 c5 0f <1f> 44 00 00 41 8b 86
[   61.885324] Kernel panic - not syncing: Fatal exception in interrupt
";

    #[test]
    fn a_breakpoint_that_is_not_in_memory_is_the_emulators() {
        assert!(ran_what_was_patched_away(CONSOLE));
    }

    #[test]
    fn whatever_else_a_kernel_dies_of_is_not() {
        let others = [
            CONSOLE.replace("c5 0f <1f>", "c5 cc <1f>"),
            CONSOLE.replace("int3: 0000", "invalid opcode: 0000"),
            CONSOLE.replace("Code: ", "Code? "),
            format!("[   60.000000] Oops: general protection fault: 0000 [#1]\n{CONSOLE}"),
            CONSOLE.lines().next().unwrap_or_default().to_owned(),
        ];
        for other in others {
            assert!(!ran_what_was_patched_away(&other), "{other}");
        }
    }
}

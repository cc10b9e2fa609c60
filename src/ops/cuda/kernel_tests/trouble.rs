use super::*;

fn message(result: Result<(), CudaError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_launch_that_is_wrong_is_told_from_one_that_is_right() {
    let Some(emulator) = Emulator::new(0) else { return };
    let d = Device(emulator);
    let (x, y) = (d.f32(&[1.0; 40]), d.room(40, Dtype::Bf16));
    let args = |count: u64| [at(&x), at(&y), Arg::U64(count)];
    d.launch("cast_bf16", 1, 32, &args(40));
    assert!(
        message(d.try_launch("no_such", [1, 1], [32, 1], 0, &args(40)))
            .contains("no kernel of the name no_such")
    );
    assert!(
        message(d.try_launch("cast_bf16", [1, 1], [32, 1], 0, &args(40)[..2]))
            .contains("has 3 arguments, not 2")
    );
    assert!(message(d.try_launch("cast_bf16", [1, 1], [33, 1], 0, &args(40))).contains("whole warps"));
    assert!(message(d.try_launch("cast_bf16", [0, 1], [32, 1], 0, &args(40))).contains("an empty grid"));
    assert!(message(d.try_launch("cast_bf16", [1, 1], [32, 1], 1 << 20, &args(40))).contains("99 KiB"));
    let stray = [at(&x), Arg::Pointer(4096), Arg::U64(40)];
    assert!(
        message(d.try_launch("cast_bf16", [1, 1], [32, 1], 0, &stray))
            .contains("not within a live allocation")
    );
    // 41 elements: one past the end of y.
    assert!(
        message(d.try_launch("cast_bf16", [1, 1], [32, 1], 0, &args(41)))
            .contains("a write outside of an allocation")
    );
}

#[test]
fn an_error_inside_of_a_kernel_is_found() {
    let Some(emulator) = Emulator::broken(0) else { return };
    let d = Device(emulator);
    let y = d.f32(&[0.0; 64]);
    for (kernel, shared, wanted) in [
        ("broken_barriers", 0, "different barriers"),
        ("broken_return", 0, "deadlock: 40 threads wait at a barrier"),
        ("broken_shuffle", 0, "deadlock"),
        ("broken_warp", 1024, "a warp diverges"),
        ("broken_alignment", 0, "a 16-byte load at an address that is no multiple of 16"),
        ("broken_shared", 256, "a write outside of the dynamic shared memory"),
        ("broken_wait", 256, "never waited for"),
    ] {
        let found = message(d.try_launch(kernel, [1, 1], [64, 1], shared, &[at(&y)]));
        assert!(found.contains(wanted) && found.contains(kernel), "{kernel}: {found}");
    }
    d.try_launch("broken_copy", [1, 1], [64, 1], 256, &[at(&y)]).unwrap();
    assert!(
        y.to_f32().unwrap().iter().all(|y| y.is_nan()),
        "what was copied is not there before it was waited for"
    );
    // A launch after an error starts afresh.
    assert!(message(d.try_launch("broken_return", [1, 1], [64, 1], 0, &[at(&y)])).contains("40 threads"));
}

#[test]
fn a_missing_barrier_gives_another_result_in_another_order() {
    let run = |order| {
        let d = Device(Emulator::broken(order)?);
        let y = d.f32(&[0.0; 64]);
        d.launch("broken_race", 1, 64, &[at(&y)]);
        Some(y.to_f32().unwrap().iter().map(|y| y.to_bits()).collect::<Vec<_>>())
    };
    let Some(first) = run(0) else { return };
    assert_ne!(first, run(1).unwrap());
}

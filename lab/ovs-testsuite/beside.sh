#!/bin/bash
# Runs ovs-offloadd in a test's run directory for as long as its ovs-vswitchd lives, and adds what became of it to
# /logs/beside.tsv: number of the test, `alive` or how it ended too early, its exit status, promotions, complaints.
exec 9>/run/lab/beside.lock
flock 9
test=${OVS_RUNDIR##*/}
out=$OVS_RUNDIR/ovs-offloadd.out
rm -f ovs-offloadd.ready
read -r vswitchd <"$OVS_RUNDIR/ovs-vswitchd.pid"

ovs-offloadd --config /repository/lab/ovs-testsuite/offloadd.toml >>"$out" 2>&1 9>&- &
daemon=$!
for _ in $(seq 50); do
	if ovs-offloadctl version >/dev/null 2>&1; then break; fi
	if ! kill -0 "$daemon" 2>/dev/null; then break; fi
	sleep 0.1
done
: >ovs-offloadd.ready

tail --pid="$vswitchd" -s 0.1 -f /dev/null
state=alive
kill -0 "$daemon" 2>/dev/null || state='ended before its ovs-vswitchd'
promotions=$(ovs-offloadctl status --output json 2>/dev/null | tr ',{' '\n\n' | sed -n 's/^ *"promotions": *\([0-9]*\).*/\1/p' | tail -n 1)
kill "$daemon" 2>/dev/null
wait "$daemon"
status=$?
complaints=$(grep -c -E 'panicked|ERROR' "$out")
printf '%d\t%s\t%d\t%d\t%d\n' "$((10#$test))" "$state" "$status" "${promotions:-0}" "$complaints" >>/logs/beside.tsv
if [ "$state" != alive ] || [ "$status" != 0 ] || [ "$complaints" != 0 ]; then
	mkdir -p "/logs/daemon"
	cp "$out" "/logs/daemon/$test.log"
fi

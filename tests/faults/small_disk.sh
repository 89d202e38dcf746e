# Runs a command while "$DISK" is a file system of its own, and copies to "$KEPT" what it holds at the end.
# "$FILLED" seconds long, from the first checkpoint on, not one byte is free on it. Needs `unshare --map-root-user --mount`.
mount -t tmpfs -o size=64m none "$DISK" || exit 99
(
    until ls "$DISK"/*/checkpoints/step-*/manifest.json; do sleep 0.02; done
    head -c 200m /dev/zero >"$DISK/filler"
    echo "the disk is full"
    sleep "$FILLED"
    rm "$DISK/filler"
) >"$KEPT.filler" 2>&1 &
filler=$!
"$@"
code=$?
kill $filler 2>/dev/null
rm -f "$DISK/filler"
cp -r "$DISK/." "$KEPT"
exit $code

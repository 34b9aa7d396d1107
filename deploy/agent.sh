#!/bin/sh
# The service as launchd's agent, in the project's folder. launchd knows two outcomes only and starts anew whatever did
# not end well; what was refused (1, 2, 3) would only be refused again, so it is told that this ended well.

if [ -f .samevoice/environment ]; then
    set -a
    . ./.samevoice/environment
    set +a
fi

.venv/bin/python -m service &
service=$!
trap 'kill -TERM "$service"' TERM INT
wait "$service"
code=$?
# A signal ends the first wait; the service is still finishing its replies then.
while kill -0 "$service" 2>/dev/null; do
    wait "$service"
    code=$?
done
case $code in 1 | 2 | 3) exit 0 ;; esac
exit "$code"

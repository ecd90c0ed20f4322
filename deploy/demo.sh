#!/usr/bin/env bash
# The whole loop on real data: six quarters of taxi trips, one after the other, and a prediction.
# What was done before is not done again; `make clean` starts over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
config=configs/taxi.yaml
retrain=.venv/bin/retrain

show() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

if [ ! -d data/taxi ]; then
    # 15,002 trips in Chicago, 2013-2016, come with TFX.
    packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    trips=$packages/tfx/examples/chicago_taxi_pipeline/data/simple/data.csv
    show $retrain split "$trips" --time trip_start_timestamp --every quarter --out data/taxi
fi
show $retrain run $config --until 6
show $retrain status $config

printf '\n\033[1m$ retrain serve %s\033[0m   (and a request to it)\n' $config
events=$(mktemp)
$retrain serve $config --rest-port 0 --grpc-port 0 --json >"$events" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true; rm -f "$events"' EXIT
.venv/bin/python - "$events" <<'PYTHON'
import json, sys, time, urllib.request

trip = {
    "fare": 12.25, "trip_miles": 3.1, "trip_seconds": 840, "payment_type": "Credit Card",
    "company": "Taxi Affiliation Services", "pickup_community_area": 8, "dropoff_community_area": 32,
    "pickup_latitude": 41.89, "pickup_longitude": -87.63, "dropoff_latitude": 41.88,
    "dropoff_longitude": -87.62, "trip_start_hour": 19, "trip_start_day": 6, "trip_start_month": 6,
}
deadline = time.monotonic() + 120
url, served = None, False
while not served:
    for line in open(sys.argv[1]):
        event = json.loads(line)
        url = event.get("rest", url)
        served = served or event.get("event", "").startswith("serving ")
    if time.monotonic() > deadline:
        sys.exit("the server did not come up; its log is the newest file in state/taxi/logs")
    time.sleep(0.2)
body = {"signature_name": "serving_raw", "instances": [trip, {**trip, "payment_type": "Cash"}]}
request = urllib.request.Request(f"{url}/v1/models/taxi:predict", json.dumps(body).encode())
with urllib.request.urlopen(request, timeout=30) as answer:
    predictions = json.load(answer)["predictions"]
print(f"POST {url}/v1/models/taxi:predict")
for kind, probability in zip(("by credit card", "in cash"), predictions, strict=True):
    print(f"  a 12.25 dollar trip paid {kind}: tip over 20 % with probability {probability:.3f}")
PYTHON
printf '\nGo on: %s run %s learns the next ten quarters; README.md has the rest.\n' $retrain $config

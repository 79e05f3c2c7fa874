// Open-loop load for k6: requests arrive at a fixed rate, whether or not earlier ones were answered.
// URL, BODIES (a file of one JSON body per line), RATE per second, SECONDS, CONNECTIONS.
import http from 'k6/http';
import { SharedArray } from 'k6/data';

const bodies = new SharedArray('bodies', () => open(__ENV.BODIES).split('\n').filter((line) => line.length));

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ['med', 'p(90)', 'p(99)', 'p(99.9)', 'max'],
  scenarios: {
    open: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE),
      timeUnit: '1s',
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: Number(__ENV.CONNECTIONS),
    },
  },
  thresholds: { http_req_failed: ['rate==0'], dropped_iterations: ['count==0'] },
};

const headers = { 'Content-Type': 'application/json' };

export default function () {
  http.post(__ENV.URL, bodies[(__VU * 7919 + __ITER) % bodies.length], { headers });
}

package mme;

import com.amazonaws.ml.mms.wlm.Model;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * What is known of one model's requests: a record of {@link ModelStatistics}. Any thread may write at any time; each
 * number is changed by one instruction of the processor.
 */
final class ModelRecord {
    // Offsets within the record, in bytes.
    private static final int GENERATION = 0; // of the record: another name, another generation
    private static final int STATE = 8;
    private static final int NAME_LENGTH = 16;
    private static final int TARGET_LENGTH = 24;
    // What is now:
    static final int WAITING = 32; // requests in the queue
    static final int UNDER_WAY = 40; // requests that a worker has, or collects for a batch
    static final int WORKERS = 48; // that have loaded the model
    static final int BUSY_WORKERS = 56; // that have a batch
    static final int WANTED_WORKERS = 64; // that there are to be, those that still load among them
    private static final int BATCH_SIZE = 72;
    private static final int BATCH_DELAY_MS = 80;
    private static final int QUEUE_SIZE = 88;
    static final int MIN_WORKERS = 96; // that it has at least, and at most
    static final int MAX_WORKERS = 104;
    private static final int MAX_IDLE_S = 112;
    // When, in nanoseconds of System.nanoTime(), which is CLOCK_MONOTONIC:
    private static final int REGISTERED = 120;
    static final int LAST_ARRIVAL = 128;
    private static final int LAST_ANSWER = 136;
    // How often, since the record has this name:
    private static final int FIRST_COUNTER = 144;
    private static final int ARRIVALS = 144;
    private static final int ANSWERS_2XX = 152;
    private static final int ANSWERS_3XX = 160;
    private static final int ANSWERS_4XX = 168;
    private static final int ANSWERS_5XX = 176; // but those that follow
    private static final int ANSWERS_507 = 184;
    private static final int REFUSED = 192; // 503 at once: the queue is full, or there is no worker
    private static final int ABANDONED = 200; // the client has hung up while the request waited
    static final int LOADS = 208; // of the model
    static final int FAILED_LOADS = 216;
    static final int UNLOADS = 224;
    static final int WORKER_LOADS = 232;
    static final int WORKER_ENDS = 240; // of workers that had loaded the model
    static final int BATCHES = 248;
    // For how long, in nanoseconds:
    static final int BUSY = 256; // workers have had a batch, all added up
    private static final int QUEUE_TIME = 264;
    private static final int HANDLER_TIME = 272;
    private static final int WHOLE_TIME = 280;
    // Histograms: how many requests took at most as long as LIMITS_NS, the last one longer.
    private static final int QUEUE_BUCKETS = 288;
    private static final int HANDLER_BUCKETS = QUEUE_BUCKETS + 8 * ModelStatistics.BUCKETS;
    private static final int WHOLE_BUCKETS = HANDLER_BUCKETS + 8 * ModelStatistics.BUCKETS;
    private static final int COUNTERS_END = WHOLE_BUCKETS + 8 * ModelStatistics.BUCKETS;
    private static final int ALL_BUSY = COUNTERS_END; // when all workers last had a batch at once
    static final int ASLEEP_WORKERS = ALL_BUSY + 8; // of WORKERS
    private static final int NAME = 1024; // UTF-8
    private static final int TARGET = 2048; // UTF-8: X-Amzn-SageMaker-Target-Model of the last request
    private static final int LONGEST_TEXT = 1024;

    private static final int STATE_UNLOADED = 0;
    private static final int STATE_REGISTERED = 1; // loaded, or being loaded
    private static final long[] LIMITS_NS =
            inNanoseconds(0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000);

    private final ModelStatistics all;
    private final int number;
    private final int start;
    private String name = "";
    private volatile String target = "";

    ModelRecord(ModelStatistics all, int number) {
        this.all = all;
        this.number = number;
        start = all.recordOffset(number);
    }

    private static long[] inNanoseconds(double... milliseconds) {
        return Arrays.stream(milliseconds).mapToLong(each -> Math.round(each * 1e6)).toArray();
    }

    boolean isIn(ModelStatistics statistics) {
        return all == statistics;
    }

    /** Whether the next request has to wake a worker. */
    boolean isAsleep() {
        return get(ASLEEP_WORKERS) > 0 && get(ASLEEP_WORKERS) >= get(WORKERS);
    }

    int number() {
        return number;
    }

    String name() {
        return name;
    }

    // ---- whose it is; guarded by ModelStatistics ----

    /** Who reads it meanwhile sees that the generation is 0, or another one afterwards. */
    void giveTo(String newName) {
        long generation = get(GENERATION);
        set(GENERATION, 0);
        for (int at = STATE; at < COUNTERS_END; at += 8) {
            set(at, 0);
        }
        set(NAME_LENGTH, writeText(NAME, newName));
        name = newName;
        set(GENERATION, generation + 1);
    }

    /** Whether another model may have it. */
    boolean isUnused() {
        return get(STATE) == STATE_UNLOADED && get(WAITING) == 0 && get(UNDER_WAY) == 0 && get(WORKERS) == 0;
    }

    void addTo(ModelRecord other) {
        for (int at = FIRST_COUNTER; at < COUNTERS_END; at += 8) {
            other.add(at, get(at));
        }
    }

    /** Returns the length in bytes. */
    private int writeText(int at, String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        int length = Math.min(bytes.length, LONGEST_TEXT);
        all.write(start + at, bytes, length);
        return length;
    }

    // ---- the model ----

    void isRegistered(Model model, ServingProperties serving) {
        set(BATCH_SIZE, model.getBatchSize());
        set(BATCH_DELAY_MS, model.getMaxBatchDelay());
        set(QUEUE_SIZE, serving.queueSize());
        set(MIN_WORKERS, serving.leastWorkers());
        set(MAX_WORKERS, serving.mostWorkers());
        set(MAX_IDLE_S, serving.maxIdleS());
        set(ALL_BUSY, System.nanoTime());
        set(WANTED_WORKERS, 0);
        set(REGISTERED, System.nanoTime());
        set(STATE, STATE_REGISTERED);
        all.hasChanged();
    }

    void isUnregistered(boolean wasLoaded) {
        set(STATE, STATE_UNLOADED);
        if (wasLoaded) {
            add(UNLOADS, 1);
        }
        all.hasChanged();
    }

    // ---- its requests ----

    void onArrival(long now) {
        set(LAST_ARRIVAL, now);
        add(ARRIVALS, 1);
        all.add(ModelStatistics.ARRIVALS, 1);
    }

    void addWaiting(int requests) {
        add(WAITING, requests);
        all.add(ModelStatistics.WAITING, requests);
    }

    void addUnderWay(int requests) {
        add(UNDER_WAY, requests);
        all.add(ModelStatistics.UNDER_WAY, requests);
    }

    /** Whether more requests are there than workers. */
    boolean isShortOfWorkers() {
        return get(WAITING) + get(UNDER_WAY) > get(WORKERS);
    }

    /** To be called when a worker gets a batch, and before it is without one. */
    void noteWhetherAllAreBusy(long now) {
        if (get(BUSY_WORKERS) >= get(WANTED_WORKERS)) {
            set(ALL_BUSY, now);
        }
    }

    void onRefused() {
        add(REFUSED, 1);
    }

    void onAbandoned() {
        add(ABANDONED, 1);
    }

    /** {@code sent}: when a worker got it; 0: none did. Times as of System.nanoTime(). */
    void onAnswered(int status, long arrived, long sent, long now) {
        add(counterOf(status), 1);
        set(LAST_ANSWER, now);
        observe(QUEUE_TIME, QUEUE_BUCKETS, (sent == 0 ? now : sent) - arrived);
        if (sent != 0) {
            observe(HANDLER_TIME, HANDLER_BUCKETS, now - sent);
        }
        observe(WHOLE_TIME, WHOLE_BUCKETS, now - arrived);
    }

    private static int counterOf(int status) {
        if (status < 300) {
            return ANSWERS_2XX;
        }
        if (status < 400) {
            return ANSWERS_3XX;
        }
        if (status < 500) {
            return ANSWERS_4XX;
        }
        return status == 507 ? ANSWERS_507 : ANSWERS_5XX;
    }

    private void observe(int sum, int buckets, long took) {
        int bucket = 0;
        while (bucket < LIMITS_NS.length && took > LIMITS_NS[bucket]) {
            bucket++;
        }
        add(sum, took);
        add(buckets + 8 * bucket, 1);
    }

    /** The header X-Amzn-SageMaker-Target-Model of a request. */
    void onTarget(String newTarget) {
        if (!newTarget.equals(target)) {
            synchronized (this) {
                set(TARGET_LENGTH, 0);
                set(TARGET_LENGTH, writeText(TARGET, newTarget));
                target = newTarget;
            }
        }
    }

    // ---- access ----

    long get(int at) {
        return all.get(start + at);
    }

    void set(int at, long value) {
        all.set(start + at, value);
    }

    void add(int at, long value) {
        all.add(start + at, value);
    }
}

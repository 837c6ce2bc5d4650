package mme;

import java.io.IOException;
import java.io.RandomAccessFile;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.util.HashMap;
import java.util.Map;

/**
 * What is known of each model's requests, in memory that the supervisor reads (supervisor/model_statistics.py has the
 * same layout). Nobody but this process writes.
 *
 * <pre>
 * 0                     the header, below
 * {@value #HEADER_BYTES}                  record 0: of all models that have no record of their own (any more)
 * … + n · {@value #RECORD_BYTES}          record n: ModelRecord
 * </pre>
 *
 * All numbers are 8 bytes long, in the machine's order. A name keeps its record when its model is unloaded: SageMaker
 * loads and unloads the same models again and again, and counters must not fall. Where all records are in use, the one
 * of the unloaded model that was asked for least recently is given to another name, with a new generation; what it has
 * counted goes on in record 0. A record that was never used costs no memory.
 */
final class ModelStatistics {
    static final int HEADER_BYTES = 4096;
    static final int RECORD_BYTES = 4096;
    static final int BUCKETS = 16; // of each histogram

    // The header's numbers. Python writes the first four; where they are others, the two were not made for each other.
    private static final int LAYOUT = 0;
    private static final int RECORD_SIZE = 8;
    private static final int MOST_RECORDS = 16;
    private static final int BUCKET_COUNT = 24;
    private static final int USED_RECORDS = 32; // records from here on have never been used
    private static final int CHANGES = 40; // of names and of what is loaded
    static final int WAITING = 48; // requests in all queues
    static final int UNDER_WAY = 56; // requests at all workers
    static final int ARRIVALS = 64; // requests to all models
    // Requests that no model has, by the reason:
    static final int DRAINING = 72; // the server stops: 503
    static final int TOO_LARGE = 80; // the body: 413
    static final int UNKNOWN = 88; // the model: 404
    static final int INVALID = 96; // 400
    // Loads, by the status of their answer: 2xx, then those of LOAD_STATUSES, then all others.
    private static final int LOAD_ANSWERS = 104;
    private static final int[] LOAD_STATUSES = {400, 404, 409, 500, 503, 507};
    private static final int HEADER_END = LOAD_ANSWERS + 8 * (LOAD_STATUSES.length + 2);

    private static final String FILE = Agent.PRIVATE_FOLDER + "/model-statistics";
    private static final long THIS_LAYOUT = 1;
    private static final VarHandle NUMBERS =
            MethodHandles.byteBufferViewVarHandle(long[].class, ByteOrder.nativeOrder());

    private final ByteBuffer memory;
    private final int mostRecords;
    private final Map<String, ModelRecord> records = new HashMap<>(); // guarded by this
    private final ModelRecord others;

    private ModelStatistics(ByteBuffer memory) throws IOException {
        this.memory = memory;
        mostRecords = (int) get(MOST_RECORDS);
        long size = HEADER_BYTES + (long) mostRecords * RECORD_BYTES;
        if (get(LAYOUT) != THIS_LAYOUT
                || get(RECORD_SIZE) != RECORD_BYTES
                || get(BUCKET_COUNT) != BUCKETS
                || memory.capacity() != size
                || mostRecords < 1) {
            throw new IOException(FILE + " has another layout than the agent: they are not of one version");
        }
        for (int at = USED_RECORDS; at < HEADER_END; at += 8) {
            set(at, 0); // of a front end that ended as it started
        }
        others = new ModelRecord(this, 0);
        others.giveTo("");
        set(USED_RECORDS, 1);
    }

    /** Memory that nobody else sees, for a model that is not to be counted. */
    private static ModelStatistics inPrivate() throws IOException {
        ByteBuffer memory = ByteBuffer.allocateDirect(HEADER_BYTES + RECORD_BYTES).order(ByteOrder.nativeOrder());
        memory.putLong(LAYOUT, THIS_LAYOUT).putLong(RECORD_SIZE, RECORD_BYTES);
        memory.putLong(MOST_RECORDS, 1).putLong(BUCKET_COUNT, BUCKETS);
        return new ModelStatistics(memory);
    }

    /** A record for a model of the server's own. */
    static ModelRecord ofNobody() {
        try {
            return inPrivate().others;
        } catch (IOException e) {
            throw new IllegalStateException(e); // of memory that was made for it
        }
    }

    boolean has(ModelRecord record) {
        return record.isIn(this);
    }

    /** The memory that the supervisor has made. */
    static ModelStatistics open() throws IOException {
        try (RandomAccessFile file = new RandomAccessFile(FILE, "rw")) {
            return new ModelStatistics(file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, file.length()));
        }
    }

    /** The record of the model of that name, whether or not it is loaded. */
    synchronized ModelRecord of(String name) {
        ModelRecord record = records.get(name);
        if (record != null) {
            return record;
        }
        int used = (int) get(USED_RECORDS);
        if (used < mostRecords) {
            record = new ModelRecord(this, used);
            record.giveTo(name); // before it can be seen
            set(USED_RECORDS, used + 1);
        } else {
            record = leastRecentlyUsed();
            if (record == null) {
                return others;
            }
            records.remove(record.name());
            record.addTo(others);
            record = new ModelRecord(this, record.number());
            record.giveTo(name);
        }
        records.put(name, record);
        add(CHANGES, 1);
        return record;
    }

    private ModelRecord leastRecentlyUsed() {
        ModelRecord found = null;
        for (ModelRecord record : records.values()) {
            boolean isOlder = found == null || record.get(ModelRecord.LAST_ARRIVAL) < found.get(ModelRecord.LAST_ARRIVAL);
            if (isOlder && record.isUnused()) {
                found = record;
            }
        }
        return found;
    }

    void onLoadAnswered(int status) {
        int place = 0;
        if (status >= 300) {
            place = 1;
            while (place <= LOAD_STATUSES.length && LOAD_STATUSES[place - 1] != status) {
                place++;
            }
        }
        add(LOAD_ANSWERS + 8 * place, 1);
    }

    /** A request to a model was answered with an error, and is in no model's record. */
    void onInvocationRefused(int status) {
        if (status == 404) {
            add(UNKNOWN, 1);
        } else if (status >= 400 && status < 500) {
            add(INVALID, 1);
        }
    }

    void hasChanged() {
        add(CHANGES, 1);
    }

    // ---- access to the memory: offsets in bytes ----

    long get(int at) {
        return (long) NUMBERS.getVolatile(memory, at);
    }

    void set(int at, long value) {
        NUMBERS.setVolatile(memory, at, value);
    }

    void add(int at, long value) {
        long before = (long) NUMBERS.getAndAdd(memory, at, value);
        assert before >= Long.MIN_VALUE; // the value is not asked for, but its type tells the compiler which method
    }

    void write(int at, byte[] bytes, int length) {
        ByteBuffer there = memory.duplicate();
        there.position(at);
        there.put(bytes, 0, length);
    }

    int recordOffset(int number) {
        return HEADER_BYTES + number * RECORD_BYTES;
    }
}

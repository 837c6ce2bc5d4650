package mme;

/** What one run of a worker's thread adds to its model's record: whether it has the model, and works on a batch. */
final class WorkerStatistics {
    private final ModelRecord record;
    private boolean isLoaded;
    private boolean hasEnded;
    private boolean isAsleep;
    private long batchSent; // System.nanoTime(); 0: it has none

    WorkerStatistics(ModelRecord record) {
        this.record = record;
    }

    synchronized void onLoaded() {
        if (!hasEnded) {
            isLoaded = true;
            record.add(ModelRecord.WORKERS, 1);
            record.add(ModelRecord.WORKER_LOADS, 1);
        }
    }

    /** Its session sleeps, and is woken by the next batch. */
    synchronized void onAsleep() {
        if (!hasEnded && !isAsleep) {
            isAsleep = true;
            record.add(ModelRecord.ASLEEP_WORKERS, 1);
        }
    }

    private void onAwake() {
        if (isAsleep) {
            isAsleep = false;
            record.add(ModelRecord.ASLEEP_WORKERS, -1);
        }
    }

    synchronized void onBatchSent() {
        if (!hasEnded) {
            onAwake();
            batchSent = System.nanoTime();
            record.add(ModelRecord.BUSY_WORKERS, 1);
            record.noteWhetherAllAreBusy(batchSent);
            record.add(ModelRecord.BATCHES, 1);
        }
    }

    synchronized void onBatchAnswered() {
        onAwake(); // it fell asleep as the batch was sent
        if (batchSent != 0) {
            long now = System.nanoTime();
            record.noteWhetherAllAreBusy(now);
            record.add(ModelRecord.BUSY, now - batchSent);
            record.add(ModelRecord.BUSY_WORKERS, -1);
            batchSent = 0;
        }
    }

    /** The thread may be there before what its connection has still to say. */
    synchronized void onEnded() {
        onBatchAnswered();
        hasEnded = true;
        if (isLoaded) {
            isLoaded = false;
            record.add(ModelRecord.WORKERS, -1);
            record.add(ModelRecord.WORKER_ENDS, 1);
        }
    }
}

package mme;

import com.sun.management.HotSpotDiagnosticMXBean;
import com.sun.management.VMOption;
import java.lang.management.ManagementFactory;

/**
 * An idle JVM collects garbage, and so gives heap back to models (MMS-27): by itself it keeps for good what a busy
 * hour took. What MMS has dropped without closing it is closed then, too. An option of Java 12, which 11 would not
 * start with.
 */
final class IdleHeap {
    private static final String OPTION = "G1PeriodicGCInterval";
    private static final String INTERVAL_MS = "20000";

    private IdleHeap() {}

    static void install() {
        HotSpotDiagnosticMXBean machine = ManagementFactory.getPlatformMXBean(HotSpotDiagnosticMXBean.class);
        try {
            if (machine.getVMOption(OPTION).getOrigin() == VMOption.Origin.DEFAULT) {
                machine.setVMOption(OPTION, INTERVAL_MS);
            }
        } catch (IllegalArgumentException e) {
            // Java 11
        }
    }
}

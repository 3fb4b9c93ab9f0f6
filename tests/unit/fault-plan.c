#include "fault-plan.h"
bool fault_plan_has(FaultSide side, FerryFaultPoint point)
{
    return true;
}
bool fault_plan_agrees(FaultSide side, FerryFaultPoint point, FaultMode mode, bool passed)
{
    return true;
}
const char *fault_plan_cell(FaultSide side, FerryFaultPoint point, FaultMode mode)
{
    return "";
}
void fault_plan_print_reasons(void)
{
}
